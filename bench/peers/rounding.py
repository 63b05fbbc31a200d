"""Round to nearest as textbooks have it, written without a look at the engine's: the baseline, and GPTQ's grid.

    scale = (max - min) / (2**bits - 1),  zero = round(-min / scale)
    w_hat = (clamp(round(w / scale) + zero) - zero) * scale

Shape letters: N output features, K input features, G groups per row, S features per group.
Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    bits: int
    group_size: int


def scale_and_zero(w_NGS: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(scale, zero) with the last dimension 1; zero is always on the grid, scale as float16 holds it."""
    low = w_NGS.amin(-1, keepdim=True).clamp(max=0)
    high = w_NGS.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=torch.finfo(torch.float16).tiny).half().float()
    return scale, (-low / scale).round().clamp(0, 2**bits - 1)


def on_grid(w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return ((w / scale).round().add(zero).clamp(0, 2**bits - 1) - zero) * scale


def round_to_nearest(w_NK: Tensor, grid: Grid) -> Tensor:
    w_NGS = w_NK.reshape(len(w_NK), -1, grid.group_size)
    return on_grid(w_NGS, *scale_and_zero(w_NGS, grid.bits), grid.bits).view_as(w_NK)
