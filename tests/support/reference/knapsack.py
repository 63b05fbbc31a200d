"""The best choice by trying all."""

from collections.abc import Sequence
from itertools import product


def least_damage(items: Sequence[Sequence[tuple[int, float]]], capacity: int) -> float | None:
    """Of all ways to pick one (size, damage) for each item within the capacity; None if there is none."""
    fitting = (picked for picked in product(*items) if sum(size for size, _ in picked) <= capacity)
    return min((sum(damage for _, damage in picked) for picked in fitting), default=None)
