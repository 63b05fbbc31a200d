"""One choice for each item, the least total damage within a capacity: the multiple-choice knapsack, solved exactly.

    min  sum_i damage[i][choice_i]     over choices with     sum_i size[i][choice_i] <= capacity

Dynamic programming over lists of states (size, damage) that no other state beats in both. A state is dropped when even
the continuous relaxation of what is still to choose cannot bring it below the best choice known. The relaxation is a
walk along the lower convex hulls of the items, steepest first; taking only the steps that fit is the choice known.
What survives is a few states around the optimum, whatever the sizes are: no table over the capacity is made.

Sources: Kellerer, Pferschy, Pisinger 2004, Knapsack Problems, sections 3.4 (lists) and 11.2 (relaxation);
Pisinger 1995, EJOR 83, for the pair of both.
Shape letters: S states, C candidates (S times the options of an item), J steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_STATES = 200_000
_ROUNDING = 1e-12  # relative: sums in another order must not drop the optimum

Sizes = NDArray[np.int64]
Damages = NDArray[np.float64]


class Option(NamedTuple):
    size: int
    damage: float


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[int, ...]  # index of the option of each item
    damage: float
    bound: float  # no choice within the capacity has less damage than this, up to rounding
    is_exact: bool  # false only if the states outgrew most_states: the optimum is between bound and damage then


class _Steps(NamedTuple):
    """From each vertex of an item's lower convex hull to the next, the steepest first, over all items."""

    item_J: NDArray[np.int64]
    option_J: NDArray[np.int64]  # after the step
    size_J: Sizes
    damage_J: Damages  # negative


def solve(items: Sequence[Sequence[Option]], capacity: int, *, most_states: int = MOST_STATES) -> Choice | None:
    """The best choice, or None if even the smallest options exceed the capacity.

    Ties fall to the smaller total size. An option that is larger and does more damage than another is never chosen.
    """
    hulls = [_hull(options) for options in items]
    smallest = [options[hull[0]] for options, hull in zip(items, hulls, strict=True)]
    if sum(option.size for option in smallest) > capacity:
        return None
    steps = _steps(items, hulls)
    known = _walk([hull[0] for hull in hulls], steps, capacity - sum(option.size for option in smallest))
    best = sum(items[item][option].damage for item, option in enumerate(known))
    slack = _ROUNDING * sum(abs(option.damage) for option in smallest)

    size_S: Sizes = np.zeros(1, dtype=np.int64)
    damage_S: Damages = np.zeros(1)
    bound = float(_relaxed(smallest, steps, -1, capacity - size_S)[0])
    parents: list[NDArray[np.int32]] = []
    chosen: list[NDArray[np.int32]] = []
    is_exact = True
    promising = _promising(items, steps, capacity, best + slack)
    for item, options in enumerate(items):
        size_C = np.concatenate([size_S + options[option].size for option in promising[item]])
        damage_C = np.concatenate([damage_S + options[option].damage for option in promising[item]])
        reach_C = damage_C + _relaxed(smallest[item + 1 :], steps, item, capacity - size_C)
        keep = np.flatnonzero(reach_C <= best + slack)
        keep = keep[np.lexsort((damage_C[keep], size_C[keep]))]
        # In the order of size, a state stays if it has less damage than all before it.
        before = np.minimum.accumulate(np.concatenate(([np.inf], damage_C[keep])))[:-1]
        keep = keep[damage_C[keep] < before]
        if len(keep) > most_states:
            keep = keep[np.sort(np.argpartition(reach_C[keep], most_states)[:most_states])]
            is_exact = False
        parents.append((keep % len(size_S)).astype(np.int32))
        chosen.append(np.array(promising[item], dtype=np.int32)[keep // len(size_S)])
        size_S, damage_S = size_C[keep], damage_C[keep]

    if not len(damage_S) or damage_S[-1] > best:
        return Choice(tuple(known), best, bound, is_exact=False)
    damage = float(damage_S[-1])
    return Choice(_trace(parents, chosen), damage, damage if is_exact else bound, is_exact)


def _hull(options: Sequence[Option]) -> list[int]:
    """Indices of the options on the lower convex hull, from the smallest size down to the least damage."""
    hull: list[int] = []
    for index in sorted(range(len(options)), key=lambda index: options[index]):
        if hull and options[index].damage >= options[hull[-1]].damage:
            continue
        while len(hull) > 1 and _slope(options[hull[-2]], options[index]) <= _slope(
            options[hull[-2]], options[hull[-1]]
        ):
            hull.pop()
        hull.append(index)
    return hull


def _slope(before: Option, after: Option) -> float:
    return (after.damage - before.damage) / (after.size - before.size)


def _steps(items: Sequence[Sequence[Option]], hulls: Sequence[Sequence[int]]) -> _Steps:
    steps = [
        (_slope(options[left], options[right]), item, right, options[left], options[right])
        for item, (options, hull) in enumerate(zip(items, hulls, strict=True))
        for left, right in pairwise(hull)
    ]
    # A stable sort: within an item the steps are in order already, also where rounding makes two slopes equal.
    steps.sort(key=lambda step: step[0])
    return _Steps(
        np.array([item for _, item, *_ in steps], dtype=np.int64),
        np.array([option for _, _, option, *_ in steps], dtype=np.int64),
        np.array([after.size - before.size for *_, before, after in steps], dtype=np.int64),
        np.array([after.damage - before.damage for *_, before, after in steps], dtype=np.float64),
    )


def _walk(options: list[int], steps: _Steps, left: int) -> list[int]:
    """Take every step that fits and follows one taken."""
    options = list(options)
    blocked: set[int] = set()
    for item, option, size in zip(steps.item_J.tolist(), steps.option_J.tolist(), steps.size_J.tolist(), strict=True):
        if item in blocked or size > left:
            blocked.add(item)
            continue
        options[item] = option
        left -= size
    return options


def _promising(items: Sequence[Sequence[Option]], steps: _Steps, capacity: int, most: float) -> list[list[int]]:
    """By item, the options that a choice of at most this damage can contain.

    With a price per size every choice within the capacity does at least sum_i min_j (damage + price * size) - price *
    capacity damage; an option that is this much worse than its item's minimum is out. The price is the slope of the
    relaxation where the capacity ends.
    """
    sizes = sum(min(options).size for options in items) + np.cumsum(steps.size_J)
    end = int(np.searchsorted(sizes, capacity, side="right"))
    price = -float(steps.damage_J[end] / steps.size_J[end]) if end < len(sizes) else 0.0
    priced = [[option.damage + price * option.size for option in options] for options in items]
    lowest = [min(costs) for costs in priced]
    spare = most - (sum(lowest) - price * capacity)
    # An item keeps its best option in any case: rounding must not leave it none.
    return [
        [option for option, cost in enumerate(costs) if cost - low <= max(spare, 0.0)]
        for costs, low in zip(priced, lowest, strict=True)
    ]


def _relaxed(smallest: Sequence[Option], steps: _Steps, item: int, left_S: Sizes) -> Damages:
    """The least damage of the items after `item` if options could be mixed; infinite where they do not fit.

    Args:
        smallest: of the items after `item` only.
        left_S: capacity that is left for them.
    """
    is_after = steps.item_J > item
    size_J = np.concatenate(([0], np.cumsum(steps.size_J[is_after])))
    damage_J = np.concatenate(([0.0], np.cumsum(steps.damage_J[is_after])))
    spare_S = left_S - sum(option.size for option in smallest)
    damage_S = np.interp(spare_S, size_J, damage_J) + sum(option.damage for option in smallest)
    return np.where(spare_S < 0, np.inf, damage_S)


def _trace(parents: Sequence[NDArray[np.int32]], chosen: Sequence[NDArray[np.int32]]) -> tuple[int, ...]:
    """The options that led to the last state of the last item."""
    state = -1
    options: list[int] = []
    for parent_S, chosen_S in zip(reversed(parents), reversed(chosen), strict=True):
        options.append(int(chosen_S[state]))
        state = int(parent_S[state])
    return tuple(reversed(options))
