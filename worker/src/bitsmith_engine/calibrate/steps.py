"""Which windows of a calibration are computed together, in an optimizer step or in a pass without gradients.

Shape letters: B windows, T tokens per window.
"""

import torch
from torch import Tensor

from bitsmith_engine.runtime import generator

_PASS_TOKENS = 4096  # enough to keep a GPU busy, 10 MB a tensor at H = 576


def step_windows(B: int, T: int, *, step_tokens: int, epochs: int, seed: int) -> list[Tensor]:
    """Indices of each step's windows; every epoch sees all of them once, in an order of its own.

    Args:
        step_tokens: a step has as many windows as fit into these, and at least one.
    """
    random = generator(seed)
    size = max(1, step_tokens // T)
    orders = [torch.randperm(B, generator=random) for _ in range(epochs)]
    return [order_B[start : start + size] for order_B in orders for start in range(0, B, size)]


def pass_windows(B: int, T: int) -> list[slice]:
    """All windows in order, in pieces of at most _PASS_TOKENS tokens, or of one window."""
    size = max(1, _PASS_TOKENS // T)
    return [slice(start, min(start + size, B)) for start in range(0, B, size)]
