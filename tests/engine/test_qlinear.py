"""What a linear layer on codes promises: the arithmetic of a dense one, and no dense gradient left behind."""

import weakref

import pytest
import torch
from bitsmith_engine.nn.qlinear import QuantLinear
from bitsmith_engine.nn.swap import attach_sink, swap_linears
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme
from torch import Tensor, nn
from torch.nn import functional as F


class Recorder:
    def __init__(self) -> None:
        self.received: list[tuple[str, Tensor]] = []

    def receive(self, name: str, grad_NK: Tensor) -> None:
        self.received.append((name, grad_NK.clone()))


def a_parameter(name: str = "w", N: int = 48, K: int = 128, bits: int = 2) -> QuantParameter:
    scheme = Scheme(bits=bits, group_size=64)
    w_NK = torch.randn(N, K, generator=torch.Generator().manual_seed(0))
    return QuantParameter(name, scheme, quantize(w_NK, scheme, clip_search=True))


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("has_bias", [True, False])
def test_output_and_gradients_equal_those_of_the_dequantized_weight(bits: int, has_bias: bool) -> None:
    parameter, recorder = a_parameter(bits=bits), Recorder()
    bias = torch.randn(48) if has_bias else None
    layer = QuantLinear(parameter, bias)
    layer.attach(recorder)
    x = torch.randn(2, 5, 128, requires_grad=True)
    weight = torch.randn(2, 5, 48)

    (layer(x) * weight).sum().backward()

    dense_NK = parameter.dequantize(torch.float32).requires_grad_()
    same_x = x.detach().clone().requires_grad_()
    expected = F.linear(same_x, dense_NK, bias)
    (expected * weight).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(x.grad, same_x.grad)
    ((name, grad_NK),) = recorder.received
    assert name == "w"
    torch.testing.assert_close(grad_NK, dense_NK.grad)


def test_the_first_layer_gets_its_gradient_though_its_input_needs_none() -> None:
    recorder = Recorder()
    layer = QuantLinear(a_parameter(), None)
    layer.attach(recorder)
    layer(torch.randn(3, 128)).sum().backward()
    assert len(recorder.received) == 1


def test_without_a_sink_nothing_wants_a_gradient() -> None:
    assert not QuantLinear(a_parameter(), None)(torch.randn(3, 128)).requires_grad


def test_a_dense_gradient_is_gone_before_the_next_layer_makes_its_own() -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Watcher:
        def receive(self, name: str, grad_NK: Tensor) -> None:
            assert all(reference() is None for reference in alive)
            alive.append(weakref.ref(grad_NK))

    model = nn.Sequential(*(QuantLinear(a_parameter(str(index), 128, 128), None) for index in range(3)))
    attach_sink(model, Watcher())
    model(torch.randn(4, 128)).sum().backward()
    assert len(alive) == 3


def test_swapping_replaces_named_linears_and_keeps_their_bias() -> None:
    model = nn.ModuleDict({"a": nn.Linear(128, 48), "b": nn.Linear(128, 48)})
    swap_linears(model, {"a": a_parameter("a")})
    assert isinstance(model["a"], QuantLinear)
    assert model["a"].bias is not None
    assert isinstance(model["b"], nn.Linear)


def test_only_linears_can_be_swapped() -> None:
    with pytest.raises(TypeError, match="Embedding"):
        swap_linears(nn.ModuleDict({"a": nn.Embedding(4, 4)}), {"a": a_parameter("a")})
