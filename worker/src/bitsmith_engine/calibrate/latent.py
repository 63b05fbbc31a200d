"""What calibration moves: codes and scales as numbers that vary continuously, floats as numbers that a file will round.

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

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bitsmith_engine.nn.assembly import REST_DTYPE
from bitsmith_engine.optim import rules
from bitsmith_engine.quant.affine import row_chunks
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
        level_NK = parameter.codes_NK.float()
        if w_NK is not None:
            w_NK = parameter.take_columns(w_NK).to(parameter.device)
            for rows in row_chunks(level_NK):
                level_NK[rows] += parameter.residual_rows(w_NK[rows], rows).clamp_(-_EDGE, _EDGE)
        self.level_NK = nn.Parameter(level_NK)
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
        """Back to the parameter's codes and scales."""
        self.level_NK.copy_(self.parameter.codes_NK)
        self.log_scale_NG.copy_(self.parameter.scale_NG.float().log())

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
        limits = torch.finfo(torch.float16)
        scale_NG1 = log_scale_NG.exp().clamp_(limits.tiny, limits.max).half().float().unsqueeze(-1)
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


class Floats:
    """Float parameters of a module in training: float32 masters behind what the checkpoint's 16-bit file will hold.

    The module always computes with the rounded values, so nothing is lost when they are saved.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        self._start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._master = {name: start.float().clone() for name, start in self._start.items()}
        self._first = {name: torch.zeros_like(master) for name, master in self._master.items()}
        self._second = {name: torch.zeros_like(master) for name, master in self._master.items()}
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        self._round()

    @torch.no_grad()
    def step_(self, *, step: int, rate: float) -> None:
        """AdamW on the gradients of the module's parameters, which are used up. step counts from 1."""
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            moments = self._first[name], self._second[name]
            rules.adamw_(self._master[name], *moments, parameter.grad.float(), step=step, rate=rate)
            parameter.grad = None
        self._round()

    @torch.no_grad()
    def reset_(self) -> None:
        for name, master in self._master.items():
            master.copy_(self._start[name])
        self._round()

    def changed(self) -> dict[str, Tensor]:
        """Those that a 16-bit file would hold differently from how they came."""
        rounded = {name: parameter.detach().to(REST_DTYPE, copy=True) for name, parameter in self._parameters.items()}
        return {name: p for name, p in rounded.items() if not torch.equal(p, self._start[name].to(REST_DTYPE))}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a run continues from, by flat name; the tensors are shared."""
        parts = {"master": self._master, "first": self._first, "second": self._second}
        return {f"{part}:{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor.copy_(saved[name])
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(self._master[name].to(REST_DTYPE))
