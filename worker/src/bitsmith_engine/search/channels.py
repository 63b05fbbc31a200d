"""Which input channels of each layer get which width, under an exact budget of code bits.

Layers of a unit read the same input, so they share out their channels alike: their columns are permuted the same way.
Channels are ordered by what the widest width saves over the narrowest, and cut into steps of as many as a group has, so
that the blocks of a layer divide into groups. Every step has a width of its own:

    damage_b(step) = sum over its channels k and the unit's layers of   damage_k at b bits

What a unit loses least at each number of bits is found by dynamic programming over its steps; how many bits each unit
gets, by the exact knapsack over all units.

Damages are diagonal: errors of different channels are taken as independent. Rounding is measured in groups of
neighbouring channels; in the plan a group holds channels of one block.

Shape letters: K input features, W widths, J steps of a unit, S sums of bits over steps, beyond the narrowest width's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import torch
from torch import Tensor

from bitsmith_engine.errors import BadModel, BadSpec
from bitsmith_engine.quant.plan import Plans, plan_channel_mix
from bitsmith_engine.search.knapsack import Option, solve
from bitsmith_engine.search.sensitivity import Channels, UnitSensitivity

_STEPS = (64, 32)


def channel_plan(
    units: Sequence[UnitSensitivity],
    channels: Channels,
    *,
    bpw: float,
    widths: Iterable[int],
    group_size: int | None = None,
    symmetric: bool = False,
) -> Plans:
    """The plan of each layer, in the model's order.

    Args:
        bpw: mean of the code bits over all weights; never exceeded.
        group_size: None chooses for each block the preferred size of its width that divides it.

    Raises:
        BadModel: a layer's input features are no multiple of 32.
        BadSpec: bpw is below all widths, or a width was not measured.
    """
    ascending = sorted(set(widths))
    split = [_split(unit, channels, ascending, group_size) for unit in units]
    extra = (Fraction(repr(float(bpw))) - ascending[0]) * sum(unit.weights for unit in units)
    choice = solve([part.options for part in split], floor(extra))
    if choice is None:
        raise BadSpec(f"bpw {bpw} is below the {ascending[0]} bits of the narrowest width; raise it")

    plans: Plans = {}
    for unit, part, taken in zip(units, split, choice.options, strict=True):
        columns = part.columns(taken)
        for layer in unit.layers:
            plans[layer.name] = plan_channel_mix(
                columns, layer.input_features, group_size=group_size, symmetric=symmetric
            )
    return plans


def step_of(K: int, group_size: int | None) -> int:
    """How many channels have a width of their own.

    Raises:
        BadModel: no group divides the layer.
    """
    # Of a layer that is a single group the halves can still differ.
    for step in _STEPS if group_size is None else (group_size, *_STEPS):
        if K % step == 0 and step < K:
            return step
    raise BadModel(
        f"a layer has {K} input features; channel-mix needs a multiple of {_STEPS[-1]}, and more than one. "
        "Choose another base, or layer-mix"
    )


@dataclass(frozen=True, slots=True)
class _Split:
    """What a unit can have: an option for every number of bits that its steps can add up to."""

    widths: Sequence[int]  # ascending
    step_JK: Tensor  # the channels of each step
    options: Sequence[Option]  # sizes are bits beyond the narrowest width's
    sum_of_option: Sequence[int]
    choice_JS: Tensor  # which width step J has where the steps up to it have S bits

    def columns(self, option: int) -> dict[int, Tensor]:
        """Channels by width, the widest first, ascending within a width."""
        by_width: dict[int, list[Tensor]] = {bits: [] for bits in reversed(self.widths)}
        left = self.sum_of_option[option]
        for channels_K, choice_S in zip(self.step_JK.flip(0), self.choice_JS.flip(0), strict=True):
            bits = self.widths[int(choice_S[left])]
            by_width[bits].append(channels_K)
            left -= bits - self.widths[0]
        return {bits: torch.cat(parts).sort().values for bits, parts in by_width.items() if parts}


def _split(unit: UnitSensitivity, channels: Channels, widths: Sequence[int], group_size: int | None) -> _Split:
    damages = [channels.get(layer.name, {}) for layer in unit.layers]
    if any(bits not in by_bits for by_bits in damages for bits in widths):
        raise BadSpec(f"channel-mix needs the widths {list(widths)} measured; {unit.name} lacks one: measure again")
    damage_WK = torch.stack([torch.stack([by_bits[bits].double() for by_bits in damages]).sum(0) for bits in widths])
    order_K = (damage_WK[0] - damage_WK[-1]).argsort(descending=True, stable=True)
    step = step_of(len(order_K), group_size)
    least_S, choice_JS = _least(damage_WK[:, order_K].view(len(widths), -1, step).sum(-1), widths)
    sums = [bits for bits, damage in enumerate(least_S.tolist()) if damage < torch.inf]
    per_step = step * sum(layer.output_features for layer in unit.layers)
    options = [Option(bits * per_step, least_S[bits].item()) for bits in sums]
    return _Split(widths, order_K.view(-1, step), options, sums, choice_JS)


def _least(damage_WJ: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The least damage at each sum of bits, infinite where no choice of widths has that sum; and how it is reached."""
    span = widths[-1] - widths[0]
    J = damage_WJ.shape[1]
    least_S = damage_WJ.new_full((span * J + 1,), torch.inf)
    least_S[0] = 0.0
    choice_JS = torch.zeros(J, len(least_S), dtype=torch.uint8)
    for j in range(J):
        candidate_WS = damage_WJ.new_full((len(widths), len(least_S)), torch.inf)
        for w, bits in enumerate(widths):
            shift = bits - widths[0]
            candidate_WS[w, shift:] = least_S[: len(least_S) - shift] + damage_WJ[w, j]
        least_S, choice_S = candidate_WS.min(0)
        choice_JS[j] = choice_S
    return least_S, choice_JS
