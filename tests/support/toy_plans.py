"""Plans of two widths, for tests that need a layer of more than one block."""

from typing import Any

import torch
from bitsmith_engine.quant.plan import LayerPlan, plan_channel_mix
from torch import Tensor


def four_and_two(high_K: Tensor, K: int, **grid: Any) -> LayerPlan:
    """These of the K input channels, in this order, at four bits; the others, ascending, at two."""
    is_low_K = torch.ones(K, dtype=torch.bool)
    is_low_K[high_K] = False
    return plan_channel_mix({4: high_K, 2: is_low_K.nonzero().squeeze(-1)}, K, **grid)
