"""Two or four bits for each unit, under a budget of code bits per weight: an exact 0/1 knapsack.

Four bits for a unit cost 2 * weights bits and save its damage at two bits. Weights of a model's units share a large
common divisor (a few hundred thousand), so dynamic programming over the budget in that unit is exact and takes
milliseconds.
Source: Kellerer, Pferschy, Pisinger 2004, Knapsack Problems, section 2.3.
"""

import math
from collections.abc import Mapping, Sequence

import torch

LOW_BITS, HIGH_BITS = 2, 4


def allocate(gains: Mapping[str, float], weights: Mapping[str, int], *, bpw: float) -> dict[str, int]:
    """Bits per unit with the largest total gain whose mean over all weights is at most bpw.

    Args:
        gains: what four bits save over two, at least 0; same keys as weights.
        bpw: in LOW_BITS .. HIGH_BITS.
    """
    names = list(gains)
    unit = math.gcd(*weights.values())
    sizes = [weights[name] // unit for name in names]
    # A hair of slack: 3.3 bits of 10 weights are 6.5 four-bit weights and must not become 6.499999 and then 6.
    capacity = math.floor((bpw - LOW_BITS) / (HIGH_BITS - LOW_BITS) * sum(sizes) + 1e-9)
    chosen = _knapsack([gains[name] for name in names], sizes, capacity)
    return {name: HIGH_BITS if index in chosen else LOW_BITS for index, name in enumerate(names)}


def _knapsack(values: Sequence[float], sizes: Sequence[int], capacity: int) -> set[int]:
    """Indices of the items of largest total value whose total size is at most capacity."""
    best = torch.zeros(capacity + 1, dtype=torch.float64)  # by capacity, over the items seen so far
    takes: list[torch.Tensor] = []
    for value, size in zip(values, sizes, strict=True):
        taken = torch.zeros(capacity + 1, dtype=torch.bool)
        if size <= capacity:
            candidate = best[: capacity + 1 - size] + value
            taken[size:] = candidate > best[size:]
            best[size:] = torch.where(taken[size:], candidate, best[size:])
        takes.append(taken)

    chosen: set[int] = set()
    left = capacity
    for index in range(len(values) - 1, -1, -1):
        if takes[index][left]:
            chosen.add(index)
            left -= sizes[index]
    return chosen
