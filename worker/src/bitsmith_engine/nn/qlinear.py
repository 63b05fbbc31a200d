"""A linear layer whose weight is one QuantParameter, or several that share out its input channels.

    Y = X W^T + b,    W[:, columns of block i] = dequantize(block i)
    dX = dY W,        dW_i = dY^T X[:, columns of block i], handed to the sink and forgotten

dW is a sum over tokens, and the sink may have it estimated from a sample of them.

Shape letters: N output features, K input features, T all tokens of the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.parameter import GradientSink, QuantParameter, dequantize_layer


class QuantLinear(nn.Module):
    """Drop-in for nn.Linear. `sink` is None until an optimizer listens; the weight is frozen until then."""

    def __init__(self, blocks: Sequence[QuantParameter], bias: Tensor | None) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.out_features = self.blocks[0].shape[0]
        self.in_features = sum(block.shape[1] for block in self.blocks)
        _check_cover(self.blocks, self.in_features)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.sink: GradientSink | None = None
        # Autograd runs a backward only if some input wants a gradient. In the first layer nothing else does: codes
        # are integers and the embeddings are frozen.
        self.anchor = nn.Parameter(torch.zeros((), device=self.blocks[0].device), requires_grad=False)

    def attach(self, sink: GradientSink | None) -> None:
        self.sink = sink
        self.anchor.requires_grad_(sink is not None)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight (N, K)."""
        return dequantize_layer(self.blocks, dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _QuantMatmul.apply(x, self.anchor, self)  # type: ignore[no-untyped-call]  # torch types it not
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        grids = ", ".join(f"{block.shape[1]} x {block.scheme}" for block in self.blocks)
        return f"in_features={self.in_features}, out_features={self.out_features}, {grids}"


class _QuantMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: QuantLinear) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        return F.linear(x, layer.dequantize(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (dy,) = grads
        (x,) = ctx.saved_tensors
        layer: QuantLinear = ctx.layer
        # dX first: the sink may change the weight at once.
        dx = dy @ layer.dequantize(dy.dtype) if ctx.needs_input_grad[0] else None
        if layer.sink is not None:
            dy_TN, x_TK = dy.reshape(-1, layer.out_features), x.reshape(-1, layer.in_features)
            sample = layer.sink.choose_tokens(lambda: _norms(dy_TN) * _norms(x_TK))
            if sample is not None:
                dy_TN = dy_TN[sample.index_A] * sample.factor_A.unsqueeze(-1).to(dy.dtype)
                x_TK = x_TK[sample.index_A]
            dy_NT = dy_TN.T
            for block in layer.blocks:
                layer.sink.receive(block.name, (dy_NT @ block.take_columns(x_TK)).float())
        return dx, None, None


def _norms(values_TF: Tensor) -> Tensor:
    norms_T: Tensor = torch.linalg.vector_norm(values_TF, dim=-1, dtype=torch.float32)
    return norms_T


def _check_cover(blocks: Sequence[QuantParameter], K: int) -> None:
    lists = [block.columns_K for block in blocks if block.columns_K is not None]
    if not lists and len(blocks) == 1:
        return
    name = blocks[0].layer_name
    if len(lists) < len(blocks):
        raise BadModel(f"{name}: a weight of all input channels stands beside column blocks; quantize the base again")
    every_K = torch.cat(lists).sort().values
    if not torch.equal(every_K, torch.arange(K, device=every_K.device)):
        raise BadModel(
            f"{name}: its column blocks do not cover each of {K} input channels once; quantize the base again"
        )
