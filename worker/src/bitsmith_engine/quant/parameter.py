"""QuantParameter: a weight matrix that exists as codes, scales and zero points only.

The seam between layers and optimizers: a layer owns a QuantParameter and hands its gradient to a GradientSink, an
optimizer is a sink and changes the parameter through its methods; neither knows the other.

Shape letters: N output features, K input features, G groups per row.
"""

from typing import Protocol

import torch
from torch import Tensor

from bitsmith_engine import kernels
from bitsmith_engine.quant.affine import Affine
from bitsmith_engine.quant.scheme import Scheme


class GradientSink(Protocol):
    def receive(self, name: str, grad_NK: Tensor) -> None:
        """Take the gradient of the loss with respect to the dequantized weight `name`, once per backward pass.

        The sink may change the parameter at once and may overwrite grad_NK; the caller has no further use for either.
        """


class QuantParameter:
    """codes_NK uint8, scale_NG float16, zero_NG uint8, all on one device."""

    __slots__ = ("codes_NK", "name", "scale_NG", "scheme", "zero_NG")

    def __init__(self, name: str, scheme: Scheme, affine: Affine) -> None:
        self.name = name
        self.scheme = scheme
        self.codes_NK, self.scale_NG, self.zero_NG = affine

    @property
    def shape(self) -> tuple[int, int]:
        N, K = self.codes_NK.shape
        return N, K

    @property
    def device(self) -> torch.device:
        return self.codes_NK.device

    def to(self, device: torch.device) -> "QuantParameter":
        """A copy that shares nothing with this one."""
        copies = [tensor.to(device, copy=True) for tensor in (self.codes_NK, self.scale_NG, self.zero_NG)]
        return QuantParameter(self.name, self.scheme, Affine(*copies))

    def grouped(self, values_RK: Tensor) -> Tensor:
        """A view (R, G, S) of values laid out like some of the rows."""
        return values_RK.view(len(values_RK), self.scale_NG.shape[1], self.scheme.group_size)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return kernels.dequantize(self.codes_NK, self.scale_NG, self.zero_NG, dtype)

    def dequantize_rows(self, rows: slice) -> Tensor:
        """Some rows in float32."""
        return kernels.dequantize(self.codes_NK[rows], self.scale_NG[rows], self.zero_NG[rows], torch.float32)

    def residual_rows(self, w_RK: Tensor, rows: slice) -> Tensor:
        """How far the float weights lie above their codes, in levels: w / scale + zero - code."""
        level_RGS = self.grouped(w_RK.float()) / self.scale_NG[rows].float().unsqueeze(-1)
        level_RGS += self.zero_NG[rows].float().unsqueeze(-1)
        return level_RGS.view_as(w_RK) - self.codes_NK[rows]

    def step_codes_(self, index: Tensor, up: Tensor) -> None:
        """Move the codes at these flat positions one level, up where `up` is true and down elsewhere.

        The caller picks positions that have room: a code never leaves 0 .. top_code.
        """
        flat = self.codes_NK.view(-1)
        moved = flat[index].to(torch.int16) + torch.where(up, 1, -1).to(torch.int16)
        assert bool(((moved >= 0) & (moved <= self.scheme.top_code)).all()), f"{self.name}: a code left its range"
        flat[index] = moved.to(torch.uint8)

    def set_scales_(self, scale_NG: Tensor) -> None:
        """New scales of any float dtype, rounded to float16 and kept positive and finite there."""
        limits = torch.finfo(torch.float16)
        self.scale_NG.copy_(scale_NG.clamp(limits.tiny, limits.max))
