"""What fitting a decoder layer promises: it starts as the codes are, moves codes and scales, and only for better."""

from pathlib import Path

import pytest
import torch
from bitsmith_engine.calibrate import blockwise
from bitsmith_engine.calibrate.blockwise import BlockReport, StudentLayer, fit_block, layer_steps, relative_error
from bitsmith_engine.calibrate.latent import LatentLinear, LatentWeight
from bitsmith_engine.calibrate.steps import step_windows
from bitsmith_engine.calibrate.teacher import Stream, advance
from bitsmith_engine.models.blocks import Blocks
from bitsmith_engine.models.opening import Base, open_base
from bitsmith_engine.nn.assembly import REST_DTYPE
from bitsmith_engine.nn.qlinear import QuantLinear
from bitsmith_engine.optim.floats import Floats
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.plan import LayerPlan, plan_layer, quantize_layer
from bitsmith_engine.quant.storage import Parameters, Rest
from bitsmith_engine.runtime import choose_runtime
from torch import Tensor, nn
from toy_calibration import rounded, toy_windows
from toy_plans import four_and_two

RUNTIME = choose_runtime("cpu")
N, K = 6, 128
PLANS = {
    "two bits": plan_layer(2, K),
    "four bits": plan_layer(4, K),
    "symmetric": plan_layer(4, K, symmetric=True),
    "channel-mix": four_and_two(torch.arange(0, K, 2), K),
}


def weight() -> Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0)) * 0.05


def quantized(plan: LayerPlan) -> list[QuantParameter]:
    return quantize_layer("a", weight(), plan, clip_search=True)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_latent_layer_starts_as_the_quantized_one(plan: LayerPlan) -> None:
    parameters = quantized(plan)
    x_TK = torch.randn(5, K, generator=torch.Generator().manual_seed(1))
    latent = LatentLinear([LatentWeight(p, weight()) for p in parameters], nn.Parameter(torch.ones(N)))
    assert torch.equal(latent(x_TK), QuantLinear(parameters, torch.ones(N))(x_TK))


def test_a_latent_weight_starts_near_the_float_weight() -> None:
    (parameter,) = quantized(plan_layer(4, K))
    near_NK = LatentWeight(parameter, weight()).weight().float()
    far_NK = parameter.dequantize(torch.float32)
    assert (near_NK - weight()).abs().mean() < 0.05 * (far_NK - weight()).abs().mean()


def test_gradients_are_those_of_the_weight_that_is_computed_with() -> None:
    (parameter,) = quantized(plan_layer(2, K))
    upstream_NK = torch.randn(N, K, generator=torch.Generator().manual_seed(2))
    latent = LatentWeight(parameter, weight())
    (latent() * upstream_NK).sum().backward()

    scale_NG = parameter.scale_NG.float().requires_grad_(True)
    offset_NGS = parameter.grouped(parameter.codes_NK.float()) - parameter.zero_NG.unsqueeze(-1)
    w_NK = (offset_NGS * scale_NG.unsqueeze(-1)).view(N, K)
    (w_NK * upstream_NK).sum().backward()  # type: ignore[no-untyped-call]
    assert scale_NG.grad is not None
    torch.testing.assert_close(latent.log_scale_NG.grad, scale_NG.grad * scale_NG.detach())
    expected_NK = upstream_NK * scale_NG.detach().repeat_interleave(parameter.scheme.group_size, dim=1)
    torch.testing.assert_close(latent.level_NK.grad, expected_NK)


def test_settling_changes_nothing_that_is_computed() -> None:
    (parameter,) = quantized(plan_layer(2, K))
    latent = LatentWeight(parameter, weight())
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        latent.level_NK.add_(torch.randn(N, K, generator=random))
        latent.log_scale_NG.add_(0.1 * torch.randn(latent.log_scale_NG.shape, generator=random))
    latent.keep_on_grid_()
    before_NK = latent().detach()
    start_NK = parameter.codes_NK.clone()
    latent.settle_()
    assert not torch.equal(parameter.codes_NK, start_NK)
    assert torch.equal(parameter.dequantize(torch.float32), before_NK)
    residual_NK = parameter.residual_rows(latent.weight(), slice(None))
    assert residual_NK.abs().max() < 0.51  # float16 may push a weight over the boundary of its cell, but not far


def test_floats_follow_adamw_and_compute_as_a_16_bit_file_holds_them() -> None:
    module = nn.LayerNorm(32)
    oracle = nn.Parameter(module.weight.detach().clone())
    adamw = torch.optim.AdamW([oracle], lr=1e-2, weight_decay=0.0, eps=1e-10)
    floats = Floats({"weight": module.weight}, through=REST_DTYPE)
    for step in range(6):
        gradient = torch.randn(32, generator=torch.Generator().manual_seed(step))
        module.weight.grad, oracle.grad = gradient.clone(), gradient.clone()
        floats.step_(step=step + 1, rate=1e-2)
        adamw.step()
        torch.testing.assert_close(module.weight.detach(), oracle.detach().bfloat16().float(), rtol=1e-2, atol=0)
        assert torch.equal(module.weight.detach(), module.weight.detach().bfloat16().float())
    assert floats.changed()["weight"].dtype == torch.bfloat16
    floats.reset_()
    assert not floats.changed()


def test_every_token_counts_by_its_relative_error_and_by_its_energy() -> None:
    target_BTH = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
    output_BTH = torch.tensor([[[3.0, 9.0], [0.0, 1.5]]])
    relative = (25 / 25 + 0.25 / 1) / 2
    of_energy = (25 + 0.25) / (25 + 1)
    assert relative_error(output_BTH, target_BTH).item() == pytest.approx((relative + of_energy) / 2)


@pytest.mark.parametrize(
    ("B", "T", "epochs", "steps", "windows"),
    [(8, 256, 2, 8, 2), (120, 256, 2, 120, 2), (480, 256, 1, 120, 4), (480, 256, 8, 480, 8), (4, 4096, 1, 4, 1)],
)
def test_more_text_makes_larger_steps_before_it_makes_more(
    B: int, T: int, epochs: int, steps: int, windows: int
) -> None:
    plan = layer_steps(B, T, epochs=epochs, seed=0)
    assert (len(plan), len(plan[0])) == (steps, windows)


def test_an_epoch_sees_every_window_once() -> None:
    plan = step_windows(10, 300, step_tokens=1000, epochs=2, seed=0)
    assert [len(windows) for windows in plan] == [3, 3, 3, 1] * 2
    first, second = torch.cat(plan[:4]), torch.cat(plan[4:])
    assert first.tolist() != second.tolist()
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))


class Fitted:
    """The toy model's first layer, fitted on some windows and looked at on others."""

    def __init__(self, base: Base, folder: Path, *, epochs: int, rest: Rest | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.parameters: Parameters = rounded(base, bits=2)
        self.start = {name: p.to(p.device) for name, p in self.parameters.items()}
        self.blocks = Blocks(base, RUNTIME)
        with self.blocks.layer(0) as layer:
            seen, unseen = (self._streams(layer, folder, seed) for seed in (0, 1))
            self.student = StudentLayer(layer, self.parameters, rest or {}, prefix="model.layers.0.")
            self.unseen_before = self._error(*unseen)
            self.report: BlockReport = fit_block(self.blocks, self.student, *seen, epochs=epochs, seed=0)
            self.unseen_after = self._error(*unseen)
            self.rest = self.student.settle_()

    def _streams(self, layer: nn.Module, folder: Path, seed: int) -> tuple[Stream, Stream]:
        tokens_BT = toy_windows(seed=seed)
        inputs, targets = (Stream(folder / f"{seed}-{at}.bin", (*tokens_BT.shape, 64), RUNTIME) for at in (0, 1))
        inputs.write(slice(0, len(inputs)), self.blocks.embed(tokens_BT))
        advance(self.blocks, layer, inputs, targets)
        return inputs, targets

    @torch.no_grad()
    def _error(self, inputs: Stream, targets: Stream) -> float:
        every = slice(0, len(inputs))
        return relative_error(self.blocks.run(self.student.layer, inputs.read(every)), targets.read(every)).item()

    def moved(self) -> list[str]:
        return [name for name, p in self.parameters.items() if not torch.equal(p.codes_NK, self.start[name].codes_NK)]


def test_a_fitted_layer_is_better_on_windows_it_never_saw(toy_model: Path, tmp_path: Path) -> None:
    fitted = Fitted(open_base(toy_model), tmp_path, epochs=8)
    assert fitted.report.after < 0.8 * fitted.report.before
    assert fitted.unseen_after < 0.85 * fitted.unseen_before
    assert 0 < fitted.report.moved < 0.5
    assert len(fitted.moved()) == 7  # q, k, v, o, gate, up, down of layer 0; the other layer stays
    assert all(name.startswith("model.layers.0.") for name in fitted.moved())
    assert sorted(fitted.rest) == [
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
    ]


def test_without_epochs_nothing_moves(toy_model: Path, tmp_path: Path) -> None:
    fitted = Fitted(open_base(toy_model), tmp_path, epochs=0)
    assert fitted.report.before == fitted.report.after
    assert fitted.moved() == []
    assert fitted.rest == {}
    # What is trained next still knows where in their cells the float weights lie.
    levels = [weight.level_NK.detach() for weight in fitted.student.weights]
    assert all((level_NK - level_NK.round()).abs().mean() > 0.1 for level_NK in levels)


def test_a_fit_that_makes_it_worse_is_undone(toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "LEVEL_RATE", 50.0)
    fitted = Fitted(open_base(toy_model), tmp_path, epochs=1)
    assert fitted.report == BlockReport(fitted.report.before, fitted.report.before, 0.0)
    assert fitted.unseen_after == fitted.unseen_before
    assert fitted.moved() == []
    for name, parameter in fitted.parameters.items():
        assert torch.equal(parameter.scale_NG, fitted.start[name].scale_NG)
    # What is trained next knows where in their cells the float weights lie, as if the layer had not been fitted.
    untouched = Fitted(open_base(toy_model), tmp_path, epochs=0)
    for undone, start in zip(fitted.student.weights, untouched.student.weights, strict=True):
        assert torch.equal(undone.level_NK, start.level_NK)
        assert torch.equal(undone.log_scale_NG, start.log_scale_NG)


def test_codes_of_weights_that_were_scaled_first_are_not_pulled_to_the_base(toy_model: Path, tmp_path: Path) -> None:
    base = open_base(toy_model)
    folded = {"model.layers.0.input_layernorm.weight": torch.full((64,), 0.5)}
    fitted = Fitted(base, tmp_path, epochs=0, rest=folded)
    levels = [weight.level_NK.detach() for weight in fitted.student.weights]
    assert all(torch.equal(level_NK, level_NK.round()) for level_NK in levels)
    assert fitted.student.layer.input_layernorm.weight.unique().item() == 0.5
