"""Which windows each optimizer step of a calibration sees.

Shape letters: B windows, T tokens per window.
"""

import torch
from torch import Tensor

from bitsmith_engine.runtime import generator


def step_windows(B: int, T: int, *, step_tokens: int, epochs: int, seed: int) -> list[Tensor]:
    """Indices of each step's windows; every epoch sees all of them once, in an order of its own.

    Args:
        step_tokens: a step has as many windows as fit into these, and at least one.
    """
    random = generator(seed)
    size = max(1, step_tokens // T)
    orders = [torch.randperm(B, generator=random) for _ in range(epochs)]
    return [order_B[start : start + size] for order_B in orders for start in range(0, B, size)]
