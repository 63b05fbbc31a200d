"""Round to nearest on an affine grid with integer zero points, optionally with a search for the best range.

    code  = clamp(round(w / scale) + zero, 0, 2**bits - 1)
    w_hat = (code - zero) * scale

The search shrinks each group's range, so that its ends are clipped and all levels lie closer: the best four levels for
a normal distribution span 3 of its standard deviations, the best eight 4.1, the best sixteen 5.0 (Max 1960), while 128
draws span 5.2 on average.

Shape letters: N output features, K input features, G groups per row, S features per group (K = G * S), R rows
at a time.
Source of the form: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.scheme import Scheme

# A CPU works on half a megabyte of float32 at a time, so that all passes over it stay in a core's cache; a GPU on as
# much as keeps it busy, without a temporary the size of the largest layer.
_CHUNK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 24}

# What a group's range is multiplied with, 1.0 first: it wins ties. The tables span nearly all of the best multipliers
# for groups of 32 to 128 draws from a normal distribution, and narrower ones for heavier tails; steps of 0.01 would
# lower the squared error by less than 2 percent at two to four bits. With many bits a range a little wider is often
# best: there is nothing to clip, and one of several grids fits the group by luck.
_SHRINKS = {
    2: (1.0, 0.9, 0.8, 0.7, 0.63, 0.57, 0.52, 0.47, 0.43, 0.39, 0.35, 0.3),
    3: (1.0, 1.05, 0.95, 0.9, 0.86, 0.82, 0.78, 0.74, 0.7, 0.66, 0.62, 0.58, 0.54),
    4: (1.0, 1.06, 1.03, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7),
    8: (1.0, 1.08, 1.06, 1.04, 1.02, 0.99, 0.98),
}

SMALLEST_SCALE = torch.finfo(torch.float16).tiny  # an all-zero group has no width; any positive scale is exact
LARGEST_SCALE = torch.finfo(torch.float16).max


class Affine(NamedTuple):
    codes_NK: Tensor  # uint8 in 0 .. 2**bits - 1, not packed
    scale_NG: Tensor  # float16, always positive
    zero_NG: Tensor  # uint8 within scheme.zero_choices; float16 on grids with float zero points


def quantize(
    w_NK: Tensor,
    scheme: Scheme,
    *,
    clip_search: bool,
    importance_K: Tensor | None = None,
    name: str = "a weight",
) -> Affine:
    """Each group on the grid of least squared error among those tried.

    The grid always contains 0.0, so padded and pruned weights survive exactly.

    Args:
        w_NK: any float dtype; the arithmetic is float32. scheme.group_size divides K.
        clip_search: try other ranges than the one from smallest to largest weight.
        importance_K: what the squared error of each input channel counts, such as the channel's mean squared
            activation; all the same if None. Only the search looks at it.
        name: of the layer, for the error message.

    Raises:
        BadModel: a weight is NaN or infinite, or the grid is of a kind that is only read.
    """
    if scheme.zero_kind == "float":
        raise BadModel(f"{name}: grids with float zero points are read, never made; use integer zero points")
    if importance_K is not None:
        importance_K = importance_K.to(w_NK.device, torch.float32)
    parts = []
    for rows in row_chunks(w_NK):
        w_RK = w_NK[rows].float()
        if not w_RK.isfinite().all():
            N, K = w_NK.shape
            raise BadModel(
                f"{name} ({N} x {K}) holds NaN or infinite values among its rows {rows.start} to {rows.stop - 1}; "
                "the base is damaged: fetch it again, or choose another"
            )
        parts.append(_quantize_rows(w_RK, scheme, clip_search, importance_K))
    return Affine(*(torch.cat(column) for column in zip(*parts, strict=True)))


def stored_scale(scale: Tensor) -> Tensor:
    """As a checkpoint holds it: float16, positive and finite."""
    return scale.clamp(SMALLEST_SCALE, LARGEST_SCALE).half()


def row_chunks(matrix_NK: Tensor) -> Iterator[slice]:
    """Slices over the rows of a matrix, each a piece that its device works on best."""
    N, K = matrix_NK.shape
    step = max(1, _CHUNK_ELEMENTS[matrix_NK.device.type] // K)
    for start in range(0, N, step):
        yield slice(start, min(start + step, N))


def _quantize_rows(w_RK: Tensor, scheme: Scheme, clip_search: bool, importance_K: Tensor | None) -> Affine:
    importance_GS = None if importance_K is None else importance_K.view(-1, scheme.group_size)
    w_RGS = w_RK.reshape(len(w_RK), -1, scheme.group_size)
    low_RG1 = w_RGS.amin(-1, keepdim=True).clamp_(max=0.0)
    high_RG1 = w_RGS.amax(-1, keepdim=True).clamp_(min=0.0)

    best_error_RG1 = torch.full_like(low_RG1, torch.inf)
    best_scale_RG1 = torch.ones_like(low_RG1)
    best_zero_RG1 = torch.ones_like(low_RG1)
    for widest_RG1, zero_RG1 in _grids(low_RG1, high_RG1, scheme):
        for shrink in _SHRINKS[scheme.bits] if clip_search else (1.0,):
            # The error is that of the scale as stored, in float16.
            scale_RG1 = stored_scale(widest_RG1 * shrink).float()
            w_hat_RGS = (w_RGS / scale_RG1).round_().add_(zero_RG1).clamp_(0, scheme.top_code).sub_(zero_RG1)
            squared_RGS = w_hat_RGS.mul_(scale_RG1).sub_(w_RGS).square_()
            if importance_GS is not None:
                squared_RGS.mul_(importance_GS)
            error_RG1 = squared_RGS.sum(-1, keepdim=True)
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
    if scheme.symmetric or scheme.bits == 2:
        for zero in range(lowest, highest + 1):
            reach_RG1 = torch.maximum(high_RG1 / (scheme.top_code - zero), -low_RG1 / zero)
            yield reach_RG1, torch.full_like(low_RG1, zero)
        return
    scale_RG1 = (high_RG1 - low_RG1).div_(scheme.top_code).clamp_(min=SMALLEST_SCALE)
    yield scale_RG1, (-low_RG1 / scale_RG1).round_().clamp_(lowest, highest)
