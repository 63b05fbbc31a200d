"""QuantParameter: a weight matrix that exists as codes, scales and zero points only.

The seam between layers and optimizers: a layer owns QuantParameters and hands their gradients to a GradientSink, an
optimizer is a sink and changes a parameter through its methods; neither knows the other.

Usually a parameter is the whole weight of its layer. Where a layer's input channels have different widths (channel-mix)
it is a column block: some input channels of the weight, in an order of its own, named "<layer>#<bits>". All blocks of
a layer together cover each channel once. Within a parameter, K counts its own columns and groups are of these.

Shape letters: N output features, K input features, G groups per row, R rows at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from bitsmith_engine import kernels
from bitsmith_engine.quant.affine import Affine, stored_scale
from bitsmith_engine.quant.scheme import Scheme

COLUMN_BITS = 32  # of a stored column index


class TokenSample(NamedTuple):
    """Tokens that stand for all: the sum over them, each times its factor, has the sum over all for its mean."""

    index_A: Tensor
    factor_A: Tensor


class GradientSink(Protocol):
    def choose_tokens(self, importance: Callable[[], Tensor]) -> TokenSample | None:
        """Which tokens to form a weight gradient from; None: from all.

        Args:
            importance: gives the norm of each token's contribution (T,).
        """

    def receive(self, name: str, grad_NK: Tensor) -> None:
        """Take the gradient of the loss with respect to the dequantized weight `name`, once per backward pass.

        The sink may change the parameter at once and may overwrite grad_NK; the caller has no further use for either.
        """


class QuantParameter:
    """codes_NK uint8, scale_NG float16, zero_NG uint8 (float16 on grids with float zero points), all on one device.

    Args:
        columns_K: int64 input channels of the layer that a column block covers, in its order; None: all of them.
    """

    __slots__ = ("codes_NK", "columns_K", "name", "scale_NG", "scheme", "zero_NG")

    def __init__(self, name: str, scheme: Scheme, affine: Affine, columns_K: Tensor | None = None) -> None:
        self.name = name
        self.scheme = scheme
        self.codes_NK, self.scale_NG, self.zero_NG = affine
        self.columns_K = None if columns_K is None else columns_K.to(self.device)

    @property
    def layer_name(self) -> str:
        return layer_of(self.name)

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
        columns_K = None if self.columns_K is None else self.columns_K.to(device, copy=True)
        return QuantParameter(self.name, self.scheme, Affine(*copies), columns_K)

    @property
    def bits_per_weight(self) -> float:
        """As stored: with scales, zero points, and the list of columns if this is a block."""
        return self.scheme.bits_per_weight + (0.0 if self.columns_K is None else COLUMN_BITS / self.shape[0])

    def take_columns(self, values_RK: Tensor) -> Tensor:
        """This parameter's part of values laid out like the whole layer's weight, such as the float weight itself."""
        if self.columns_K is None:
            return values_RK
        return values_RK.index_select(1, self.columns_K.to(values_RK.device))

    def grouped(self, values_RK: Tensor) -> Tensor:
        """A view (R, G, S) of values laid out like some of the rows."""
        return values_RK.view(len(values_RK), self.scale_NG.shape[1], self.scheme.group_size)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return kernels.dequantize(self.codes_NK, self.scale_NG, self.zero_NG, dtype)

    def dequantize_rows(self, rows: slice) -> Tensor:
        """Some rows in float32."""
        return kernels.dequantize(self.codes_NK[rows], self.scale_NG[rows], self.zero_NG[rows], torch.float32)

    def log_scale_gradient_rows(self, grad_RK: Tensor, rows: slice) -> Tensor:
        """The gradient by the logarithms of some rows' scales (R, G), from that by their weights."""
        return kernels.log_scale_gradient(self.codes_NK[rows], self.scale_NG[rows], self.zero_NG[rows], grad_RK)

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

    def set_scales_(self, scale_RG: Tensor, rows: slice = slice(None)) -> None:
        """New scales of some rows in any float dtype, as stored_scale rounds them."""
        self.scale_NG[rows] = stored_scale(scale_RG)


class Block(Protocol):
    """A parameter, or what is known of one."""

    @property
    def layer_name(self) -> str: ...


B = TypeVar("B", bound=Block)


def by_layer(blocks: Iterable[B]) -> dict[str, tuple[B, ...]]:
    """The blocks of each layer, by its module path, in the order given."""
    layers: dict[str, tuple[B, ...]] = {}
    for block in blocks:
        layers[block.layer_name] = (*layers.get(block.layer_name, ()), block)
    return layers


def layer_of(name: str) -> str:
    """Module path of the linear layer that a parameter is the weight of, or a column block of."""
    return name.partition("#")[0]


def dequantize_layer(blocks: Sequence[QuantParameter], dtype: torch.dtype) -> Tensor:
    """The weight (N, K) of a layer from all its blocks."""
    if len(blocks) == 1:
        return blocks[0].dequantize(dtype)
    lists = []
    for block in blocks:
        assert block.columns_K is not None, f"{block.name} is one of several blocks and has no columns"
        lists.append(block.columns_K)
    # Reading columns in another order is eight times faster on a CPU than writing each block to its columns.
    w_NK = torch.cat([block.dequantize(dtype) for block in blocks], dim=1)
    return w_NK.index_select(1, torch.cat(lists).argsort())
