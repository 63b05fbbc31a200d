"""The best choice by trying all."""

from collections.abc import Mapping
from itertools import product


def best_gain(gains: Mapping[str, float], weights: Mapping[str, int], bpw: float) -> float:
    """The largest total gain of any choice of 2 or 4 bits whose mean is at most bpw."""
    names = list(gains)
    total = sum(weights.values())
    best = 0.0
    for choice in product((2, 4), repeat=len(names)):
        bits = sum(width * weights[name] for width, name in zip(choice, names, strict=True))
        if bits <= bpw * total + 1e-9:
            best = max(best, sum(gains[name] for width, name in zip(choice, names, strict=True) if width == 4))
    return best
