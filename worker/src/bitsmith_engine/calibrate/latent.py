"""What calibration moves: codes and scales as numbers that vary continuously.

    w_hat = (clamp(round(level), 0, top_code) - zero) * exp(log_scale)

`level` is where the weight lies among the codes, in units of a code, so one learning rate serves groups of every
scale; the scale moves in relative units for the same reason. Rounding passes the gradient on unchanged (straight
through, Bengio et al. 2013, https://arxiv.org/abs/1308.3432):

    dL/dlevel = scale * dL/dw_hat,     dL/dlog_scale = sum over the group of w_hat * dL/dw_hat

Zero points stay. Codes and scales moving together, one decoder layer at a time, is Block-AP of Chen et al. 2024,
https://arxiv.org/abs/2407.11062; a level in units of a code is the rounding offset of Cheng et al. 2023,
https://arxiv.org/abs/2309.05516, which may leave its cell here.

Shape letters: N output features, K input features, G groups per row, S features per group, R rows at a time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bitsmith_engine.quant.affine import row_chunks, stored_scale
from bitsmith_engine.quant.parameter import QuantParameter

_EDGE = 0.49  # of a level: within its cell, whatever float32 makes of it


class LatentWeight(nn.Module):
    """One QuantParameter, trainable. It rounds to exactly the parameter's codes until it is moved."""

    def __init__(self, parameter: QuantParameter, w_NK: Tensor | None) -> None:
        """Start as near to the float weights of the whole layer, all its input channels, as the codes allow.

        Without them, because the codes were made from others, start on the codes.
        """
        super().__init__()
        self.parameter = parameter
        self._start_NK = None if w_NK is None else parameter.take_columns(w_NK).to(parameter.device)
        self.level_NK = nn.Parameter(self._start_level())
        self.log_scale_NG = nn.Parameter(parameter.scale_NG.float().log())

    def forward(self) -> Tensor:
        w_NK: Tensor = _OnGrid.apply(  # type: ignore[no-untyped-call]  # torch types it not
            self.level_NK, self.log_scale_NG, self.parameter
        )
        return w_NK

    @torch.no_grad()
    def keep_on_grid_(self) -> None:
        """A level far beyond the last code would have to come all the way back before it moved the weight again."""
        self.level_NK.clamp_(-_EDGE, self.parameter.scheme.top_code + _EDGE)

    @torch.no_grad()
    def settle_(self) -> None:
        """Write codes and scales into the parameter."""
        self.parameter.set_scales_(self.log_scale_NG.exp())
        self.parameter.codes_NK.copy_(self.level_NK.round())

    @torch.no_grad()
    def reset_(self) -> None:
        """Back to how it came; not after settle_."""
        self.level_NK.copy_(self._start_level())
        self.log_scale_NG.copy_(self.parameter.scale_NG.float().log())

    def _start_level(self) -> Tensor:
        level_NK = self.parameter.codes_NK.float()
        if self._start_NK is not None:
            for rows in row_chunks(level_NK):
                level_NK[rows] += self.parameter.residual_rows(self._start_NK[rows], rows).clamp_(-_EDGE, _EDGE)
        return level_NK

    @torch.no_grad()
    def weight(self) -> Tensor:
        """Where the float weight (N, K) lies by now, float16: it rounds to the codes under the parameter's scales."""
        parameter = self.parameter
        offset_NGS = parameter.grouped(self.level_NK.detach()) - parameter.zero_NG.unsqueeze(-1)
        return (offset_NGS * parameter.scale_NG.float().unsqueeze(-1)).view(parameter.shape).half()


class LatentLinear(nn.Module):
    """Drop-in for nn.Linear while its weight, one parameter or several column blocks, is fitted."""

    def __init__(self, blocks: Sequence[LatentWeight], bias: nn.Parameter | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.bias = bias
        columns = [block.parameter.columns_K for block in blocks]
        self.order_K = None if columns[0] is None else torch.cat([own for own in columns if own is not None]).argsort()

    def forward(self, x: Tensor) -> Tensor:
        parts = [block() for block in self.blocks]
        w_NK = parts[0] if self.order_K is None else torch.cat(parts, dim=1)[:, self.order_K]
        return F.linear(x, w_NK.to(x.dtype), self.bias)


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, level_NK: Tensor, log_scale_NG: Tensor, parameter: QuantParameter) -> Tensor:
        scale_NG1 = stored_scale(log_scale_NG.exp()).float().unsqueeze(-1)
        w_NGS = parameter.grouped(level_NK.round().clamp_(0, parameter.scheme.top_code))
        w_NK = w_NGS.sub_(parameter.zero_NG.unsqueeze(-1)).mul_(scale_NG1).view(parameter.shape)
        ctx.save_for_backward(w_NK, scale_NG1)
        ctx.parameter = parameter
        return w_NK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_NK,) = grads
        w_NK, scale_NG1 = ctx.saved_tensors
        parameter: QuantParameter = ctx.parameter
        log_scale_NG = parameter.grouped(grad_NK * w_NK).sum(-1)
        level_NK = (parameter.grouped(grad_NK) * scale_NG1).view(parameter.shape)
        return level_NK, log_scale_NG, None
