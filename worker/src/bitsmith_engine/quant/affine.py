"""Round to nearest on an affine grid with integer zero points, optionally with a search for the best range.

    code  = clamp(round(w / scale) + zero, 0, 2**bits - 1)
    w_hat = (code - zero) * scale

Shape letters: N output features, K input features, G groups per row, S features per group (K = G * S), R rows
at a time.
Source of the form: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bitsmith_engine.quant.scheme import Scheme

# A CPU works on half a megabyte of float32 at a time, so that all passes over it stay in a core's cache; a GPU on as
# much as keeps it busy, without a temporary the size of the largest layer.
_CHUNK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 24}

# What a group's range is multiplied with. Two bits want less than half of it: the best four levels for a normal
# distribution are one standard deviation apart (Max 1960), and 64 draws reach out to about 2.5.
_SHRINKS = {
    2: (1.0, 0.9, 0.8, 0.7, 0.63, 0.57, 0.52, 0.47, 0.43, 0.39, 0.35, 0.3),
    4: (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7),
}

_SMALLEST_SCALE = torch.finfo(torch.float16).tiny  # an all-zero group has no width; any positive scale is exact


class Affine(NamedTuple):
    codes_NK: Tensor  # uint8 in 0 .. 2**bits - 1, not packed
    scale_NG: Tensor  # float16, always positive
    zero_NG: Tensor  # uint8 within scheme.zero_choices


def quantize(w_NK: Tensor, scheme: Scheme, *, clip_search: bool) -> Affine:
    """Each group on the grid of least squared error among those tried.

    The grid always contains 0.0, so padded and pruned weights survive exactly.

    Args:
        w_NK: any float dtype; the arithmetic is float32. scheme.group_size divides K.
        clip_search: try narrower ranges as well as the one from smallest to largest weight.
    """
    parts = [_quantize_rows(w_NK[rows].float(), scheme, clip_search) for rows in row_chunks(w_NK)]
    return Affine(*(torch.cat(column) for column in zip(*parts, strict=True)))


def row_chunks(matrix_NK: Tensor) -> Iterator[slice]:
    """Slices over the rows of a matrix, each a piece that its device works on best."""
    N, K = matrix_NK.shape
    step = max(1, _CHUNK_ELEMENTS[matrix_NK.device.type] // K)
    for start in range(0, N, step):
        yield slice(start, min(start + step, N))


def _quantize_rows(w_RK: Tensor, scheme: Scheme, clip_search: bool) -> Affine:
    w_RGS = w_RK.reshape(len(w_RK), -1, scheme.group_size)
    low_RG1 = w_RGS.amin(-1, keepdim=True).clamp_(max=0.0)
    high_RG1 = w_RGS.amax(-1, keepdim=True).clamp_(min=0.0)

    best_error_RG1 = torch.full_like(low_RG1, torch.inf)
    best_scale_RG1 = torch.ones_like(low_RG1)
    best_zero_RG1 = torch.ones_like(low_RG1)
    for widest_RG1, zero_RG1 in _grids(low_RG1, high_RG1, scheme):
        for shrink in _SHRINKS[scheme.bits] if clip_search else (1.0,):
            # The error is that of the scale as stored, in float16.
            scale_RG1 = (widest_RG1 * shrink).clamp_(min=_SMALLEST_SCALE).half().float()
            w_hat_RGS = (w_RGS / scale_RG1).round_().add_(zero_RG1).clamp_(0, scheme.top_code).sub_(zero_RG1)
            error_RG1 = w_hat_RGS.mul_(scale_RG1).sub_(w_RGS).square_().sum(-1, keepdim=True)
            is_better = error_RG1 < best_error_RG1
            best_error_RG1 = torch.where(is_better, error_RG1, best_error_RG1)
            best_scale_RG1 = torch.where(is_better, scale_RG1, best_scale_RG1)
            best_zero_RG1 = torch.where(is_better, zero_RG1, best_zero_RG1)

    codes_RGS = (w_RGS / best_scale_RG1).round_().add_(best_zero_RG1).clamp_(0, scheme.top_code)
    return Affine(
        codes_RGS.reshape(w_RK.shape).to(torch.uint8),
        best_scale_RG1.squeeze(-1).half(),
        best_zero_RG1.squeeze(-1).to(torch.uint8),
    )


def _grids(low_RG1: Tensor, high_RG1: Tensor, scheme: Scheme) -> Iterator[tuple[Tensor, Tensor]]:
    """(scale that reaches both ends, zero point) of each grid worth trying."""
    lowest, highest = scheme.zero_choices
    if scheme.bits == 2:
        for zero in range(lowest, highest + 1):
            reach_RG1 = torch.maximum(high_RG1 / (scheme.top_code - zero), -low_RG1 / zero)
            yield reach_RG1, torch.full_like(low_RG1, zero)
        return
    scale_RG1 = (high_RG1 - low_RG1).div_(scheme.top_code).clamp_(min=_SMALLEST_SCALE)
    yield scale_RG1, (-low_RG1 / scale_RG1).round_().clamp_(lowest, highest)
