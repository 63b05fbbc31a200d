"""What a linear layer on codes promises: the arithmetic of a dense one, and no dense gradient left behind."""

import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_core.spec import DiodeMix as DiodeMixSettings
from bitsmith_engine.errors import BadModel
from bitsmith_engine.models.architecture import units
from bitsmith_engine.models.opening import open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.nn.qlinear import QuantLinear
from bitsmith_engine.nn.swap import attach_sink, swap_linears
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.plan import quantize_layer
from bitsmith_engine.quant.scheme import Scheme
from bitsmith_engine.runtime import choose_runtime
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from toy_plans import four_and_two
from toy_sink import Recorder

RUNTIME = choose_runtime("cpu")


def a_parameter(name: str = "w", N: int = 48, K: int = 128, bits: int = 2) -> QuantParameter:
    scheme = Scheme(bits=bits, group_size=64)
    w_NK = torch.randn(N, K, generator=torch.Generator().manual_seed(0))
    return QuantParameter(name, scheme, quantize(w_NK, scheme, clip_search=True))


def column_blocks(name: str = "w", N: int = 48, K: int = 128) -> list[QuantParameter]:
    """32 channels at four bits, in a mixed order, and the others at two."""
    random = torch.Generator().manual_seed(0)
    high_K = torch.randperm(K, generator=random)[:32]
    return quantize_layer(name, torch.randn(N, K, generator=random), four_and_two(high_K, K), clip_search=True)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("has_bias", [True, False])
def test_output_and_gradients_equal_those_of_the_dequantized_weight(bits: int, has_bias: bool) -> None:
    parameter, recorder = a_parameter(bits=bits), Recorder()
    bias = torch.randn(48) if has_bias else None
    layer = QuantLinear([parameter], bias)
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
    layer = QuantLinear([a_parameter()], None)
    layer.attach(recorder)
    layer(torch.randn(3, 128)).sum().backward()
    assert len(recorder.received) == 1


def test_without_a_sink_nothing_wants_a_gradient() -> None:
    assert not QuantLinear([a_parameter()], None)(torch.randn(3, 128)).requires_grad


def test_a_dense_gradient_is_gone_before_the_next_layer_makes_its_own() -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Watcher:
        def choose_tokens(self, importance: Callable[[], Tensor]) -> None:
            return None

        def receive(self, name: str, grad_NK: Tensor) -> None:
            assert all(reference() is None for reference in alive)
            alive.append(weakref.ref(grad_NK))

    model = nn.Sequential(*(QuantLinear([a_parameter(str(index), 128, 128)], None) for index in range(3)))
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


@pytest.mark.parametrize("has_bias", [True, False])
def test_column_blocks_compute_what_the_assembled_weight_does_and_get_their_columns_of_its_gradient(
    has_bias: bool,
) -> None:
    blocks, recorder = column_blocks(), Recorder()
    bias = torch.randn(48) if has_bias else None
    layer = QuantLinear(blocks, bias)
    layer.attach(recorder)
    x = torch.randn(2, 5, 128, requires_grad=True)
    weight = torch.randn(2, 5, 48)

    (layer(x) * weight).sum().backward()

    dense_NK = torch.zeros(48, 128)
    for block in blocks:
        assert block.columns_K is not None
        for position, column in enumerate(block.columns_K.tolist()):
            dense_NK[:, column] = block.dequantize(torch.float32)[:, position]
    dense_NK.requires_grad_()
    same_x = x.detach().clone().requires_grad_()
    expected = F.linear(same_x, dense_NK, bias)
    (expected * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert dense_NK.grad is not None
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(x.grad, same_x.grad)
    assert [name for name, _ in recorder.received] == ["w#4", "w#2"]
    for block, (_, grad_NK) in zip(blocks, recorder.received, strict=True):
        torch.testing.assert_close(grad_NK, dense_NK.grad[:, block.columns_K])


def test_swapping_puts_all_blocks_of_a_layer_into_one_linear() -> None:
    model = nn.ModuleDict({"a": nn.Linear(128, 48), "b": nn.Linear(128, 48)})
    blocks = [*column_blocks("a"), a_parameter("b")]
    layers = swap_linears(model, {block.name: block for block in blocks})
    assert [[block.name for block in layer.blocks] for layer in layers] == [["a#4", "a#2"], ["b"]]


def test_a_part_of_a_model_takes_the_layers_below_its_own_path() -> None:
    part = nn.ModuleDict({"a": nn.Linear(128, 48)})
    parameters = {name: a_parameter(name) for name in ("model.layers.1.a", "model.layers.10.a")}
    (layer,) = swap_linears(part, parameters, prefix="model.layers.1.")
    assert part["a"] is layer
    assert layer.blocks == (parameters["model.layers.1.a"],)


def test_half_of_a_layers_blocks_are_refused() -> None:
    with pytest.raises(BadModel, match="w: its column blocks do not cover"):
        QuantLinear(column_blocks()[:1], None)


def test_a_weight_of_another_shape_is_refused() -> None:
    with pytest.raises(BadModel, match="a is 50 x 128 in the model, its quantized weight is 48 x 128"):
        swap_linears(nn.ModuleDict({"a": nn.Linear(128, 50)}), {"a": a_parameter("a")})


class Overwriting(Recorder):
    """A sink that uses all its rights: it changes the parameter and the gradient at once."""

    def __init__(self, parameters: dict[str, QuantParameter]) -> None:
        super().__init__()
        self.parameters = parameters

    def receive(self, name: str, grad_NK: Tensor) -> None:
        super().receive(name, grad_NK)
        grad_NK.zero_()
        self.parameters[name].set_scales_(self.parameters[name].scale_NG.float() * 1.5)


def test_recomputed_activations_change_no_gradient_and_each_arrives_once() -> None:
    def gradients(is_checkpointed: bool) -> tuple[dict[str, Tensor], Tensor]:
        blocks = [block for index in range(4) for block in column_blocks(str(index), 128, 128)]
        model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(4))).requires_grad_(False)
        swap_linears(model, {block.name: block for block in blocks})
        sink = Overwriting({block.name: block for block in blocks})
        attach_sink(model, sink)
        x = torch.randn(6, 128, generator=torch.Generator().manual_seed(5), requires_grad=True)
        y = x
        for pair in (model[:2], model[2:]):
            y = checkpoint(pair, y, use_reentrant=False) if is_checkpointed else pair(y)
        y.square().sum().backward()  # type: ignore[no-untyped-call]
        assert Counter(name for name, _ in sink.received) == Counter(block.name for block in blocks)
        assert x.grad is not None
        return dict(sink.received), x.grad

    torch.manual_seed(0)
    plain, plain_x = gradients(False)
    torch.manual_seed(0)
    recomputed, recomputed_x = gradients(True)
    assert torch.equal(recomputed_x, plain_x)
    assert all(torch.equal(recomputed[name], plain[name]) for name in plain)


def toy_blocks(folder: Path) -> tuple[Any, dict[str, QuantParameter]]:
    base = open_base(folder)
    parameters = {}
    for unit in units(base.config):
        for name in unit.layers:
            w_NK = base.weights.get(f"{name}.weight")
            high_K = torch.arange(0, w_NK.shape[1], w_NK.shape[1] // 32)
            for block in quantize_layer(name, w_NK, four_and_two(high_K, w_NK.shape[1]), clip_search=True):
                parameters[block.name] = block
    return base, parameters


def test_a_model_of_column_blocks_learns(toy_model: Path) -> None:
    base, parameters = toy_blocks(toy_model)
    model = load_quantized(base, parameters, RUNTIME)
    tokens_BT = torch.randint(3, 259, (4, 24), generator=torch.Generator().manual_seed(0))
    optimizer = DiodeMix(
        parameters,
        DiodeMixSettings(mode="residual", code_learning_rate=2e-3, flip_budget=0.05),
        Schedule(steps=15, warmup_fraction=0.1),
        seed=0,
        float_weight=lambda name: parameters[name].take_columns(
            base.weights.get(f"{parameters[name].layer_name}.weight")
        ),
    )
    attach_sink(model, optimizer)
    losses, flips = [], 0
    for step in range(15):
        optimizer.start(step)
        loss = model(input_ids=tokens_BT, labels=tokens_BT).loss
        loss.backward()
        flips += optimizer.finish().flips
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert flips > 0


def test_changed_float_weights_replace_the_bases(toy_model: Path) -> None:
    base, parameters = toy_blocks(toy_model)
    rest = {"model.norm.weight": torch.full((64,), 0.5), "model.embed_tokens.weight": torch.full((259, 64), 0.25)}
    model = load_quantized(base, parameters, RUNTIME, rest)
    assert torch.equal(model.model.norm.weight, rest["model.norm.weight"])
    assert torch.equal(model.lm_head.weight, rest["model.embed_tokens.weight"])  # tied
    untouched = base.weights.get("model.layers.0.input_layernorm.weight")
    assert torch.equal(model.model.layers[0].input_layernorm.weight, untouched)


@pytest.mark.parametrize(
    ("name", "shape"), [("model.norm.weight", (63,)), ("model.layers.0.mlp.up_proj.weight", (128, 64)), ("x", (1,))]
)
def test_a_changed_weight_that_is_none_of_the_models_is_refused(
    toy_model: Path, name: str, shape: tuple[int, ...]
) -> None:
    base, parameters = toy_blocks(toy_model)
    with pytest.raises(BadModel, match=name):
        load_quantized(base, parameters, RUNTIME, {name: torch.zeros(shape)})
