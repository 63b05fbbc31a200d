"""HQQ on grids with integer zero points: a grid that fits most weights well and lets a few miss it.

The residual r = w / scale + zero - code, in levels, is measured by the sum of |r|^p with p < 1, which forgives the few
weights that are clipped. Half-quadratic splitting alternates

    e      <- shrink(r) = sign(r) max(0, |r| - |r|^(p-1) / beta)        the part of the residual that is forgiven
    scale  <- <w - e scale, c> / <c, c>,   c = code - zero               least squares for the rest
    zero   <- round(mean(code - w / scale + e)),  within what the scheme allows
    code   <- nearest

with a growing beta, and keeps of each group the best grid met. Residuals are in levels, so that one beta suits
weights of any size. No data is needed.

Shape letters: N output features, K input features, G groups per row, S features per group, R rows at a time.
Source: Badri & Shaji 2023, https://mobiusml.github.io/hqq_blog/, which has a float zero and a fixed scale instead.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bitsmith_engine.quant.affine import LARGEST_SCALE, SMALLEST_SCALE, Affine, quantize, row_chunks
from bitsmith_engine.quant.scheme import Scheme

_NORM = 0.7  # p
_BETA = 10.0  # a residual of half a level is forgiven 0.12 of it, one of a tenth nothing
_BETA_GROWTH = 1.05
_ROUNDS = 20


class _Fit(NamedTuple):
    misfit_RG1: Tensor
    codes_RGS: Tensor
    scale_RG1: Tensor
    zero_RG1: Tensor


def hqq(w_NK: Tensor, scheme: Scheme, *, clip_search: bool, name: str = "a weight") -> Affine:
    """Each group on a grid of least |residual|^0.7, started from the one of least squared error.

    Args:
        w_NK: any float dtype; the arithmetic is float32. scheme.group_size divides K.
        clip_search: of the start.
        name: of the layer, for the error message.

    Raises:
        BadModel: a weight is NaN or infinite.
    """
    start = quantize(w_NK, scheme, clip_search=clip_search, name=name)
    parts = [
        _fit_rows(w_NK[rows].float(), Affine(*(tensor[rows] for tensor in start)), scheme) for rows in row_chunks(w_NK)
    ]
    return Affine(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _fit_rows(w_RK: Tensor, start: Affine, scheme: Scheme) -> Affine:
    w_RGS = w_RK.reshape(len(w_RK), -1, scheme.group_size)
    scale_RG1, zero_RG1 = (tensor.float().unsqueeze(-1) for tensor in (start.scale_NG, start.zero_NG))
    codes_RGS = start.codes_NK.float().view_as(w_RGS)
    best = _Fit(_misfit(w_RGS, codes_RGS, scale_RG1, zero_RG1), codes_RGS, scale_RG1, zero_RG1)

    beta = _BETA
    for _ in range(_ROUNDS):
        excess_RGS = _shrink(w_RGS / scale_RG1 + zero_RG1 - codes_RGS, beta)
        level_RGS = codes_RGS - zero_RG1
        power_RG1 = level_RGS.square().sum(-1, keepdim=True)
        fit_RG1 = ((w_RGS - excess_RGS * scale_RG1) * level_RGS).sum(-1, keepdim=True) / power_RG1
        is_usable_RG1 = (power_RG1 > 0) & (fit_RG1 >= SMALLEST_SCALE) & (fit_RG1 <= LARGEST_SCALE)
        scale_RG1 = torch.where(is_usable_RG1, fit_RG1, scale_RG1).half().float()
        zero_RG1 = (codes_RGS - w_RGS / scale_RG1 + excess_RGS).mean(-1, keepdim=True).round_()
        zero_RG1 = zero_RG1.clamp_(*scheme.zero_choices)
        codes_RGS = (w_RGS / scale_RG1).round_().add_(zero_RG1).clamp_(0, scheme.top_code)

        found = _Fit(_misfit(w_RGS, codes_RGS, scale_RG1, zero_RG1), codes_RGS, scale_RG1, zero_RG1)
        is_better_RG1 = found.misfit_RG1 < best.misfit_RG1
        best = _Fit(*(torch.where(is_better_RG1, new, old) for new, old in zip(found, best, strict=True)))
        beta *= _BETA_GROWTH

    _, codes_RGS, scale_RG1, zero_RG1 = best
    return Affine(
        codes_RGS.flatten(1).to(torch.uint8), scale_RG1.squeeze(-1).half(), zero_RG1.squeeze(-1).to(torch.uint8)
    )


def _shrink(residual_RGS: Tensor, beta: float) -> Tensor:
    size_RGS = residual_RGS.abs()
    # A residual of zero would be raised to a negative power.
    threshold_RGS = size_RGS.clamp(min=1e-6).pow(_NORM - 1) / beta
    return residual_RGS.sign() * (size_RGS - threshold_RGS).clamp_(min=0)


def _misfit(w_RGS: Tensor, codes_RGS: Tensor, scale_RG1: Tensor, zero_RG1: Tensor) -> Tensor:
    return ((codes_RGS - zero_RG1) * scale_RG1 - w_RGS).abs().pow(_NORM).sum(-1, keepdim=True)
