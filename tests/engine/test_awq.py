"""What activation-aware scaling promises: folded in, it changes no output, and rounding hurts less."""

from pathlib import Path

import pytest
import torch
from bitsmith_engine.calibrate.awq import scale_layer, search_scale
from bitsmith_engine.calibrate.gram import InputStatistics, input_statistics
from bitsmith_engine.models.blocks import Blocks
from bitsmith_engine.models.opening import open_base, put
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.plan import LayerPlan, plan_layer
from bitsmith_engine.quant.scheme import Scheme
from bitsmith_engine.runtime import Runtime
from torch import Tensor
from toy_model import save_toy_model

RUNTIME = Runtime(device=torch.device("cpu"), compute_dtype=torch.float32)
INPUTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def statistics_of(x_TK: Tensor) -> InputStatistics:
    return InputStatistics(gram_KK=x_TK.T @ x_TK, magnitude_K=x_TK.abs().mean(0))


def plans_of(tensors: dict[str, Tensor], bits: int) -> dict[str, LayerPlan]:
    linears = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2}
    return {name.removesuffix(".weight"): plan_layer(bits, w_NK.shape[1]) for name, w_NK in linears.items()}


@pytest.fixture(scope="module", params=[2, 4], ids=["shared values", "a value head each"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with biases everywhere, and norms that differ from channel to channel."""
    folder: Path = tmp_path_factory.mktemp("biased")
    save_toy_model(folder, attention_bias=True, mlp_bias=True, num_key_value_heads=request.param)
    return folder


def test_folded_scales_change_no_output(folder: Path) -> None:
    base = open_base(folder)
    blocks = Blocks(base, RUNTIME)
    hidden_BTH = normal(2, 12, 64) * torch.linspace(0.1, 5, 64)
    shares_values = base.config.num_key_value_heads != base.config.num_attention_heads
    with torch.no_grad(), blocks.layer(1) as layer:
        for name, parameter in list(layer.named_parameters()):
            if parameter.ndim == 1:
                put(layer, name, (1 + normal(len(parameter), seed=1) * 0.3))
        tensors = {name: parameter.data for name, parameter in layer.named_parameters()}
        expected_BTH = blocks.run(layer, hidden_BTH)
        statistics = input_statistics(layer, INPUTS, [hidden_BTH], blocks.run)
        changed, _ = scale_layer(
            tensors, statistics, plans_of(tensors, 3), shares_values=shares_values, clip_search=False
        )
        for name, tensor in changed.items():
            put(layer, name, tensor)
        assert torch.allclose(blocks.run(layer, hidden_BTH), expected_BTH, rtol=1e-4, atol=1e-4)
    scaled = {name for name in changed if not torch.allclose(changed[name], tensors[name], rtol=0.02)}
    assert {"self_attn.q_proj.weight", "mlp.gate_proj.weight", "input_layernorm.weight", "mlp.up_proj.bias"} <= scaled
    assert ("self_attn.v_proj.bias" in scaled) == (not shares_values)


def test_a_loud_channel_is_scaled_up_and_the_output_comes_nearer() -> None:
    scheme = Scheme(bits=3, group_size=64)
    w_NK, x_TK = normal(48, 64) * 0.05, normal(500, 64, seed=1)
    x_TK[:, 9] *= 50
    scale_K = search_scale([w_NK], statistics_of(x_TK), [LayerPlan((scheme,), (None,))], clip_search=False)
    assert scale_K.argmax() == 9
    assert scale_K[9] > 2 * scale_K.median()

    def error(scale_K: Tensor) -> float:
        affine = quantize(w_NK * scale_K, scheme, clip_search=False)
        rounded_NK = QuantParameter("w", scheme, affine).dequantize(torch.float32)
        return ((x_TK / scale_K) @ rounded_NK.T - x_TK @ w_NK.T).square().sum().item()

    assert error(scale_K) < 0.5 * error(torch.ones(64))


def test_layers_of_one_input_share_the_best_scale_for_all_of_them() -> None:
    plan = LayerPlan((Scheme(bits=3, group_size=64),), (None,))
    x_TK = normal(300, 64, seed=1) * torch.linspace(0, 3, 64).exp()
    loud, quiet = normal(32, 64, seed=2), normal(32, 64, seed=3) * 1e-4
    both = search_scale([loud, quiet], statistics_of(x_TK), [plan, plan], clip_search=True)
    alone = search_scale([loud], statistics_of(x_TK), [plan], clip_search=True)
    assert torch.equal(both, alone)


def test_inputs_that_are_all_zero_need_no_scale() -> None:
    plan = LayerPlan((Scheme(bits=4, group_size=64),), (None,))
    scale_K = search_scale([normal(8, 64)], statistics_of(torch.zeros(10, 64)), [plan], clip_search=True)
    assert torch.equal(scale_K, torch.ones(64))
