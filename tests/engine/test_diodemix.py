"""What DiodeMix promises: scales move as AdamW moves them, codes when they have earned it and within the budget."""

import pytest
import torch
from bitsmith_core.spec import DiodeMix as Settings
from bitsmith_engine.optim.diodemix import MOMENT_BETA, DiodeMix
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme
from reference.diodemix import FactoredMoment, LatentCode
from torch import Tensor

N, K, STEPS = 6, 128, 12


def weights() -> dict[str, Tensor]:
    return {name: torch.randn(N, K, generator=torch.Generator().manual_seed(i)) * 0.05 for i, name in enumerate("ab")}


def gradients(step: int) -> dict[str, Tensor]:
    return {
        name: torch.randn(N, K, generator=torch.Generator().manual_seed(100 + 10 * step + i)) * 1e-4
        for i, name in enumerate("ab")
    }


def quantized() -> dict[str, QuantParameter]:
    schemes = {"a": Scheme(bits=2, group_size=64), "b": Scheme(bits=4, group_size=128)}
    return {
        name: QuantParameter(name, schemes[name], quantize(w_NK, schemes[name], clip_search=True))
        for name, w_NK in weights().items()
    }


def optimizer_of(parameters: dict[str, QuantParameter], **settings: object) -> DiodeMix:
    schedule = Schedule(steps=STEPS, warmup_fraction=0.25)
    chosen = Settings.model_validate({"code_learning_rate": 5e-3, "flip_budget": 1.0} | settings)
    return DiodeMix(parameters, chosen, schedule, seed=0, float_weight=weights().__getitem__)


def run(parameters: dict[str, QuantParameter], steps: int = STEPS, **settings: object) -> list[int]:
    """Flips of each step."""
    optimizer = optimizer_of(parameters, **settings)
    flips = []
    for step in range(steps):
        optimizer.start(step)
        for name, grad_NK in gradients(step).items():
            optimizer.receive(name, grad_NK)
        flips.append(optimizer.finish().flips)
    return flips


def snapshot(parameters: dict[str, QuantParameter]) -> list[Tensor]:
    return [tensor.clone() for p in parameters.values() for tensor in (p.codes_NK, p.scale_NG, p.zero_NG)]


def test_scales_move_as_adamw_moves_their_logarithms() -> None:
    parameters = quantized()
    oracle = {name: torch.nn.Parameter(p.scale_NG.float().log()) for name, p in parameters.items()}
    adamw = torch.optim.AdamW(oracle.values(), lr=1.0, weight_decay=0.0, eps=1e-10)
    schedule = Schedule(steps=STEPS, warmup_fraction=0.25)
    optimizer = optimizer_of(parameters, mode="scales_only", scale_learning_rate=5e-3)
    for step in range(STEPS):
        for name, grad_NK in gradients(step).items():
            p = parameters[name]
            levels_NK = p.codes_NK.float() - p.zero_NG.float().repeat_interleave(p.scheme.group_size, dim=1)
            log_scale = oracle[name]
            scale_NG = p.scale_NG.float()  # rounded, as the forward pass had it
            w_NK = levels_NK * scale_NG.repeat_interleave(p.scheme.group_size, dim=1)
            log_scale.grad = (grad_NK * w_NK).view(N, scale_NG.shape[1], -1).sum(-1)
        adamw.param_groups[0]["lr"] = 5e-3 * schedule.factor(step)
        adamw.step()

        optimizer.start(step)
        for name, grad_NK in gradients(step).items():
            optimizer.receive(name, grad_NK)
        optimizer.finish()
        for name, log_scale in oracle.items():
            torch.testing.assert_close(
                parameters[name].scale_NG.float(), log_scale.detach().exp(), rtol=1e-3, atol=1e-6
            )


def test_codes_follow_the_latent_weight_of_the_slow_rule() -> None:
    parameters = quantized()
    start = {name: p.to(p.device) for name, p in parameters.items()}
    rate = 1e-3  # few enough want to move in a step that the budget never binds
    assert sum(run(parameters, accumulator="float32", scale_learning_rate=1e-12, code_learning_rate=rate)) > 50

    schedule = Schedule(steps=STEPS, warmup_fraction=0.25)
    for name, p in start.items():
        w_NK = weights()[name]
        cells = [
            [
                LatentCode(
                    code=int(p.codes_NK[n, k]),
                    scale=float(p.scale_NG[n, k // p.scheme.group_size]),
                    zero=int(p.zero_NG[n, k // p.scheme.group_size]),
                    latent=float(w_NK[n, k]),
                    top_code=p.scheme.top_code,
                )
                for k in range(K)
            ]
            for n in range(N)
        ]
        moment = FactoredMoment(beta=MOMENT_BETA)
        for step in range(STEPS):
            normalized = moment.observe(gradients(step)[name].tolist())
            for n in range(N):
                for k in range(K):
                    cells[n][k].step(-rate * schedule.factor(step) * normalized[n][k])
        expected_NK = torch.tensor([[cell.code for cell in row] for row in cells], dtype=torch.uint8)
        assert torch.equal(parameters[name].codes_NK, expected_NK)


@pytest.mark.parametrize("accumulator", ["int8", "float32"])
def test_flips_stay_within_the_budget_of_the_run(accumulator: str) -> None:
    parameters = quantized()
    before = [p.codes_NK.clone() for p in parameters.values()]
    flips = run(parameters, accumulator=accumulator, flip_budget=0.02)
    total_codes = sum(codes.numel() for codes in before)
    moved = sum(int((p.codes_NK != old).sum()) for p, old in zip(parameters.values(), before, strict=True))
    assert sum(flips) == int(0.02 * total_codes)  # a free run flips far more, so the budget is what binds
    assert 0 < moved <= sum(flips)
    shares = [Schedule(steps=STEPS, warmup_fraction=0.25).share_until(step) for step in range(STEPS)]
    for step, share in enumerate(shares):
        assert sum(flips[: step + 1]) <= 0.02 * total_codes * share


def test_no_budget_means_no_flips() -> None:
    parameters = quantized()
    before = [p.codes_NK.clone() for p in parameters.values()]
    assert sum(run(parameters, flip_budget=0.0)) == 0
    assert all(torch.equal(p.codes_NK, old) for p, old in zip(parameters.values(), before, strict=True))


def test_without_a_gradient_no_code_moves() -> None:
    parameters = quantized()
    optimizer = optimizer_of(parameters)
    optimizer.start(0)
    for name in parameters:
        optimizer.receive(name, torch.zeros(N, K))
    report = optimizer.finish()
    assert (report.flips, report.candidates) == (0, 0)


def test_scales_only_leaves_codes_alone() -> None:
    parameters = quantized()
    before = [p.codes_NK.clone() for p in parameters.values()]
    assert sum(run(parameters, mode="scales_only")) == 0
    assert all(torch.equal(p.codes_NK, old) for p, old in zip(parameters.values(), before, strict=True))


def test_a_code_at_the_end_of_its_range_stays() -> None:
    scheme = Scheme(bits=2, group_size=64)
    parameters = {"a": QuantParameter("a", scheme, quantize(weights()["a"], scheme, clip_search=True))}
    parameters["a"].codes_NK.fill_(scheme.top_code)
    optimizer = optimizer_of(parameters)
    optimizer.start(STEPS // 2)
    optimizer.receive("a", torch.full((N, K), -1.0))  # every weight wants to grow
    report = optimizer.finish()
    assert report.flips == 0
    assert (parameters["a"].codes_NK == scheme.top_code).all()


def test_the_best_candidates_flip_first() -> None:
    scheme = Scheme(bits=4, group_size=64)
    w_NK = torch.zeros(1, 64)
    w_NK[0, 0], w_NK[0, 1] = -1.0, 1.0
    parameters = {"a": QuantParameter("a", scheme, quantize(w_NK, scheme, clip_search=False))}
    step = parameters["a"].scale_NG.float().item()
    latent_NK = parameters["a"].dequantize(torch.float32) + step * torch.linspace(0.1, 0.45, 64)
    optimizer = DiodeMix(
        parameters,
        Settings(code_learning_rate=0.3 * step, flip_budget=4 / 64, accumulator="float32"),
        Schedule(steps=1, warmup_fraction=0.0),
        seed=0,
        float_weight=lambda name: latent_NK,
    )
    before = parameters["a"].codes_NK.clone()
    optimizer.start(0)
    optimizer.receive("a", torch.full((1, 64), -1.0))
    assert optimizer.finish().flips == 4
    assert (parameters["a"].codes_NK != before).nonzero()[:, 1].tolist() == [60, 61, 62, 63]


@pytest.mark.parametrize("accumulator", ["int8", "float32"])
def test_equal_seeds_give_equal_bits(accumulator: str) -> None:
    first, second = quantized(), quantized()
    run(first, accumulator=accumulator, flip_budget=0.02)
    run(second, accumulator=accumulator, flip_budget=0.02)
    assert all(torch.equal(x, y) for x, y in zip(snapshot(first), snapshot(second), strict=True))


def test_micro_batches_add_up_to_their_batch() -> None:
    whole, split = quantized(), quantized()
    run(whole)
    optimizer = optimizer_of(split)
    for step in range(STEPS):
        optimizer.start(step, micro_batches=4)
        for _ in range(4):
            for name, grad_NK in gradients(step).items():
                optimizer.receive(name, grad_NK / 4)
        optimizer.finish()
    assert all(torch.equal(x, y) for x, y in zip(snapshot(whole), snapshot(split), strict=True))
