"""What the first codes promise: each method does what it is named for, on what the quantized model really sees."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_core.spec.quantization import InitialCodes
from bitsmith_engine.calibrate.start import start_codes
from bitsmith_engine.errors import BadModel, Stopped
from bitsmith_engine.models.architecture import units
from bitsmith_engine.models.opening import Base, load_float, open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.ports import Silent
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.gptq import gptq
from bitsmith_engine.quant.parameter import by_layer, dequantize_layer
from bitsmith_engine.quant.plan import LayerPlan, plan_layer
from bitsmith_engine.quant.storage import Parameters, Rest
from bitsmith_engine.runtime import Runtime
from torch import Tensor, nn
from toy_plans import four_and_two

RUNTIME = Runtime(device=torch.device("cpu"), compute_dtype=torch.float32)
BFLOAT16 = Runtime(device=torch.device("cpu"), compute_dtype=torch.bfloat16)  # as on a GPU
METHODS: list[InitialCodes] = ["rtn", "hqq", "awq", "gptq"]


class Boundaries(Silent):
    def __init__(self, *, stop_at: int | None = None) -> None:
        self.seen: list[tuple[int, int]] = []
        self._stop_at = stop_at

    def progress(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        self.seen.append((done, total))
        if done == self._stop_at:
            raise Stopped("stopped on request")


@pytest.fixture(scope="module")
def base(toy_model: Path) -> Base:
    return open_base(toy_model)


@pytest.fixture(scope="module", name="tokens_BT")
def calibration_text() -> Tensor:
    return torch.randint(3, 259, (8, 48), generator=torch.Generator().manual_seed(5))


def input_features(base: Base, name: str) -> int:
    return int(base.weights.get(f"{name}.weight").shape[1])


def layer_names(base: Base) -> list[str]:
    return [name for unit in units(base.config) for name in unit.layers]


def uniform(base: Base, bits: int) -> dict[str, LayerPlan]:
    return {name: plan_layer(bits, input_features(base, name)) for name in layer_names(base)}


def channel_mix(base: Base) -> dict[str, LayerPlan]:
    """Every other group of 32 input channels, backwards, at four bits."""
    plans = {}
    for name in layer_names(base):
        K = input_features(base, name)
        plans[name] = four_and_two(torch.arange(K).view(-1, 32)[1::2].flatten().flip(0), K)
    return plans


def start(
    base: Base, plans: dict[str, LayerPlan], tokens_BT: Tensor, method: InitialCodes, **options: Any
) -> tuple[Parameters, Rest]:
    settings: dict[str, Any] = {"runtime": RUNTIME, "observer": Silent(), "clip_search": True} | options
    return start_codes(base, plans, tokens_BT, method, **settings)


@torch.no_grad()
def damage(base: Base, parameters: Parameters, rest: Rest, tokens_BT: Tensor) -> float:
    """Nats per token between the float model's predictions and the quantized model's."""
    float_BTV = load_float(base, RUNTIME)(tokens_BT).logits.log_softmax(-1)
    quantized_BTV = load_quantized(base, parameters, RUNTIME, rest)(tokens_BT).logits.log_softmax(-1)
    return nn.functional.kl_div(
        quantized_BTV.flatten(0, 1), float_BTV.flatten(0, 1), reduction="batchmean", log_target=True
    ).item()


def test_rtn_rounds_each_weight_to_nearest(base: Base, tokens_BT: Tensor) -> None:
    plans = uniform(base, 4)
    parameters, rest = start(base, plans, tokens_BT, "rtn")
    assert rest == {}
    for name, plan in plans.items():
        expected = quantize(base.weights.get(f"{name}.weight"), plan.schemes[0], clip_search=True)
        assert torch.equal(parameters[name].codes_NK, expected.codes_NK)
        assert torch.equal(parameters[name].scale_NG, expected.scale_NG)


def test_gptq_compensates_each_layer_for_what_the_quantized_model_gives_it(base: Base, tokens_BT: Tensor) -> None:
    plans = uniform(base, 3)
    parameters, _ = start(base, plans, tokens_BT, "gptq")

    # The finished model shows every layer the inputs that it was fitted to: those of quantized layers before it.
    model = load_float(base, RUNTIME)
    grams: dict[str, Tensor] = {}
    for name in plans:
        model.get_submodule(name).weight.data = parameters[name].dequantize(torch.float32)

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            x_TK = inputs[0].flatten(0, 1)
            grams[name] = x_TK.T @ x_TK

        model.get_submodule(name).register_forward_pre_hook(keep)
    with torch.no_grad():
        model(tokens_BT)

    for name, plan in plans.items():
        w_NK = base.weights.get(f"{name}.weight")
        expected = gptq(w_NK, grams[name], plan.schemes[0], clip_search=True)
        # Sums in another order differ in the last bit, and a weight on the edge of its cell may fall to either side.
        assert (parameters[name].codes_NK != expected.codes_NK).float().mean() < 5e-3, name


def test_text_beyond_what_is_enough_is_not_looked_at(
    base: Base, tokens_BT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsmith_engine.calibrate.windows._LEAST_TOKENS", tokens_BT.numel())
    monkeypatch.setattr("bitsmith_engine.calibrate.windows._TOKENS_PER_FEATURE", 0)
    enough, _ = start(base, uniform(base, 3), tokens_BT, "gptq")
    more, _ = start(base, uniform(base, 3), torch.cat([tokens_BT, torch.full((5, 48), 7)]), "gptq")
    assert all(torch.equal(enough[name].codes_NK, more[name].codes_NK) for name in enough)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_looking_at_text_keeps_a_model_with_loud_channels_nearer_to_itself(
    toy_model: Path, tokens_BT: Tensor, tmp_path: Path, method: InitialCodes
) -> None:
    model = load_float(open_base(toy_model), RUNTIME)
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data[[5, 17, 40]] *= 20
    model.save_pretrained(tmp_path)
    for file in toy_model.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    base = open_base(tmp_path)

    plans = uniform(base, 3)
    nearest = damage(base, *start(base, plans, tokens_BT, "rtn"), tokens_BT)
    assert damage(base, *start(base, plans, tokens_BT, method), tokens_BT) < 0.7 * nearest


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("runtime", [RUNTIME, BFLOAT16], ids=str)
def test_blocks_of_columns_are_parameters_of_their_own(
    base: Base, tokens_BT: Tensor, method: InitialCodes, runtime: Runtime
) -> None:
    plans = channel_mix(base)
    parameters, rest = start(base, plans, tokens_BT[:2], method, runtime=runtime, clip_search=method != "awq")
    assert list(parameters) == [f"{name}#{bits}" for name in plans for bits in (4, 2)]
    assert {name: parameter.name for name, parameter in parameters.items()} == {name: name for name in parameters}
    assert all(name.endswith("layernorm.weight") for name in rest)
    for name, blocks in by_layer(parameters.values()).items():
        w_NK = base.weights.get(f"{name}.weight")
        w_hat_NK = dequantize_layer(blocks, torch.float32)
        assert w_hat_NK.shape == w_NK.shape
        if method != "awq":  # whose weights are scaled
            assert torch.corrcoef(torch.stack([w_NK.flatten(), w_hat_NK.flatten()]))[0, 1] > 0.8


def test_gptq_of_blocks_beats_nearest_rounding_of_blocks(base: Base, tokens_BT: Tensor) -> None:
    plans = channel_mix(base)
    ours, nearest = (damage(base, *start(base, plans, tokens_BT, method), tokens_BT) for method in ("gptq", "rtn"))
    assert ours < 0.8 * nearest


def test_layers_of_one_unit_may_have_different_plans(base: Base, tokens_BT: Tensor) -> None:
    plans = uniform(base, 4)
    odd = "model.layers.0.self_attn.k_proj"
    plans[odd] = plan_layer(2, 64)
    parameters, _ = start(base, plans, tokens_BT, "gptq")
    assert list(parameters) == list(plans)
    assert [name for name, parameter in parameters.items() if parameter.scheme.bits == 2] == [odd]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_text_gives_the_same_codes(base: Base, tokens_BT: Tensor, method: InitialCodes) -> None:
    (first, _), (again, _) = (start(base, uniform(base, 2), tokens_BT[:2], method, clip_search=False) for _ in range(2))
    assert all(torch.equal(first[name].codes_NK, again[name].codes_NK) for name in first)
    assert all(torch.equal(first[name].scale_NG, again[name].scale_NG) for name in first)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_it_can_be_stopped_after_every_decoder_layer(base: Base, tokens_BT: Tensor, method: InitialCodes) -> None:
    whole, stopped = Boundaries(), Boundaries(stop_at=1)
    start(base, uniform(base, 4), tokens_BT[:1], method, observer=whole, clip_search=False)
    assert whole.seen == [(1, 2), (2, 2)]
    with pytest.raises(Stopped):
        start(base, uniform(base, 4), tokens_BT[:1], method, observer=stopped, clip_search=False)
    assert stopped.seen == [(1, 2)]


def test_a_base_whose_activations_overflow_is_refused_by_name(
    toy_model: Path, tokens_BT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_base(toy_model)
    get = base.weights.get
    damaged = "model.layers.1.input_layernorm.weight"

    def overflowing(name: str) -> Tensor:
        tensor = get(name)
        return tensor * 1e30 if name == damaged else tensor

    monkeypatch.setattr(base.weights, "get", overflowing)
    with pytest.raises(BadModel, match=r"q_proj are infinite or not a number"):
        start(base, uniform(base, 4), tokens_BT, "gptq")
