"""A linear layer whose weight is a QuantParameter.

    Y = X dequantize(W)^T + b,    dX = dY dequantize(W),    dW = dY^T X, handed to the sink and forgotten

Shape letters: N output features, K input features, T all tokens of the batch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bitsmith_engine.quant.parameter import GradientSink, QuantParameter


class QuantLinear(nn.Module):
    """Drop-in for nn.Linear. `sink` is None until an optimizer listens; the weight is frozen until then."""

    def __init__(self, weight: QuantParameter, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.sink: GradientSink | None = None
        # Autograd runs a backward only if some input wants a gradient. In the first layer nothing else does: codes
        # are integers and the embeddings are frozen.
        self.anchor = nn.Parameter(torch.zeros((), device=weight.device), requires_grad=False)

    def attach(self, sink: GradientSink | None) -> None:
        self.sink = sink
        self.anchor.requires_grad_(sink is not None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _QuantMatmul.apply(x, self.anchor, self)  # type: ignore[no-untyped-call]  # torch types it not
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        N, K = self.weight.shape
        return f"in_features={K}, out_features={N}, {self.weight.scheme}"


class _QuantMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: QuantLinear) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        return F.linear(x, layer.weight.dequantize(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        (dy,) = grads
        (x,) = ctx.saved_tensors
        layer: QuantLinear = ctx.layer
        # dX first: the sink may change the weight at once.
        dx = dy @ layer.weight.dequantize(dy.dtype) if ctx.needs_input_grad[0] else None
        if layer.sink is not None:
            dy_TN = dy.reshape(-1, dy.shape[-1])
            x_TK = x.reshape(-1, x.shape[-1])
            layer.sink.receive(layer.weight.name, (dy_TN.T @ x_TK).float())
        return dx, None, None
