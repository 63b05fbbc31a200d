"""What DiodeMix promises: scales move as AdamW moves them, codes when they have earned it and within the budget."""

import pytest
import torch
from bitsmith_core.spec import DiodeMix as Settings
from bitsmith_engine.optim.codes import Average, ErrorIntoMomentum, Now
from bitsmith_engine.optim.diodemix import MOMENT_BETA, DiodeMix
from bitsmith_engine.optim.lowbit import draw_dither
from bitsmith_engine.optim.momentum import DenseMomentum
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme
from reference.diodemix import LatentCode
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
    chosen = Settings.model_validate({"mode": "residual", "code_learning_rate": 5e-3, "flip_budget": 1.0} | settings)
    return DiodeMix(parameters, chosen, schedule, seed=0, float_weight=weights().__getitem__)


def run(parameters: dict[str, QuantParameter], **settings: object) -> list[int]:
    """Flips of each step."""
    optimizer = optimizer_of(parameters, **settings)
    flips = []
    for step in range(STEPS):
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
    rate = 1e-3  # few enough want to move in a step that the budget never binds
    cells = {name: latent_cells(p, weights()[name]) for name, p in parameters.items()}
    optimizer = optimizer_of(
        parameters, accumulator="float32", scale_learning_rate=1e-12, code_learning_rate=rate, flip_budget=1.0
    )
    schedule = Schedule(steps=STEPS, warmup_fraction=0.25)
    for step in range(STEPS):
        saved = {key: tensor.clone() for key, tensor in optimizer.state_dict().items()}
        optimizer.start(step)
        for name, grad_NK in gradients(step).items():
            optimizer.receive(name, grad_NK.clone())
        optimizer.finish()
        if step == 0:
            continue  # measured the second moment only
        for name, grad_NK in gradients(step).items():
            row, column = saved[f"{name}:row"], saved[f"{name}:column"] / (1 - MOMENT_BETA**step)
            second_NK = torch.outer(row / row.mean(), column)
            normalized = (grad_NK / second_NK.sqrt()).tolist()
            for n in range(N):
                for k in range(K):
                    cells[name][n][k].step(-rate * schedule.factor(step) * normalized[n][k])
    assert optimizer.total_flips > 50
    for name, p in parameters.items():
        expected_NK = torch.tensor([[cell.code for cell in row] for row in cells[name]], dtype=torch.uint8)
        assert torch.equal(p.codes_NK, expected_NK)


def latent_cells(p: QuantParameter, w_NK: Tensor) -> list[list[LatentCode]]:
    return [
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


def test_only_residuals_need_the_float_weights() -> None:
    schedule = Schedule(steps=STEPS, warmup_fraction=0.25)
    for mode, momentum in (("scales_only", "none"), ("rank", "float32")):
        settings = Settings.model_validate({"mode": mode, "momentum": momentum})
        DiodeMix(quantized(), settings, schedule, seed=0)
    with pytest.raises(AssertionError, match="give float_weight"):
        DiodeMix(quantized(), Settings(mode="residual"), schedule, seed=0)


def test_a_code_at_the_end_of_its_range_stays() -> None:
    scheme = Scheme(bits=2, group_size=64)
    parameters = {"a": QuantParameter("a", scheme, quantize(weights()["a"], scheme, clip_search=True))}
    parameters["a"].codes_NK.fill_(scheme.top_code)
    optimizer = optimizer_of(parameters, code_learning_rate=1.0)
    for step in range(2):
        optimizer.start(step)
        optimizer.receive("a", torch.full((N, K), -1.0))  # every weight wants to grow
        report = optimizer.finish()
    assert report.flips == 0
    assert report.saturated == N * K
    assert (parameters["a"].codes_NK == scheme.top_code).all()


def test_codes_that_were_moved_on_purpose_are_not_sent_back() -> None:
    parameters = quantized()
    moved = {}
    for name, p in parameters.items():
        inner = ((p.codes_NK > 0) & (p.codes_NK < p.scheme.top_code)).view(-1).nonzero().squeeze(-1)[::5]
        p.step_codes_(inner, torch.ones(len(inner), dtype=torch.bool))
        moved[name] = p.codes_NK.clone()
    optimizer = optimizer_of(parameters, code_learning_rate=1e-5)
    for step in range(STEPS):
        optimizer.start(step)
        for name, grad_NK in gradients(step).items():
            optimizer.receive(name, grad_NK)
        optimizer.finish()
    for name, p in parameters.items():
        assert (p.codes_NK != moved[name]).float().mean() < 0.02  # of the 20 % that were moved


def test_the_best_candidates_flip_first() -> None:
    scheme = Scheme(bits=4, group_size=64)
    w_NK = torch.zeros(1, 64)
    w_NK[0, 0], w_NK[0, 1] = -1.0, 1.0
    parameters = {"a": QuantParameter("a", scheme, quantize(w_NK, scheme, clip_search=False))}
    step = parameters["a"].scale_NG.float().item()
    latent_NK = parameters["a"].dequantize(torch.float32) + step * torch.linspace(0.1, 0.45, 64)
    optimizer = DiodeMix(
        parameters,
        Settings(mode="residual", code_learning_rate=0.3 * step, flip_budget=4 / 64, accumulator="float32"),
        Schedule(steps=2, warmup_fraction=0.0),
        seed=0,
        float_weight=lambda name: latent_NK,
    )
    before = parameters["a"].codes_NK.clone()
    for number in range(2):
        optimizer.start(number)
        optimizer.receive("a", torch.full((1, 64), -1.0))
        report = optimizer.finish()
    assert report.flips == 4
    assert (parameters["a"].codes_NK != before).nonzero()[:, 1].tolist() == [60, 61, 62, 63]


@pytest.mark.parametrize("accumulator", ["int8", "float32"])
def test_equal_seeds_give_equal_bits(accumulator: str) -> None:
    first, second = quantized(), quantized()
    run(first, accumulator=accumulator, flip_budget=0.02)
    run(second, accumulator=accumulator, flip_budget=0.02)
    assert all(torch.equal(x, y) for x, y in zip(snapshot(first), snapshot(second), strict=True))


def test_micro_batches_add_up_to_their_batch() -> None:
    whole, split = quantized(), quantized()
    # Scales that hardly move: rounded to float16, a last bit of theirs would decide about codes.
    settings: dict[str, object] = {"accumulator": "float32", "code_learning_rate": 1e-3, "scale_learning_rate": 1e-9}
    run(whole, **settings)
    optimizer = optimizer_of(split, **settings)
    for step in range(STEPS):
        optimizer.start(step)
        for _ in range(4):
            for name, grad_NK in gradients(step).items():
                optimizer.receive(name, grad_NK / 4)
        optimizer.finish()
    for name, p in whole.items():
        torch.testing.assert_close(p.scale_NG.float(), split[name].scale_NG.float(), rtol=2e-3, atol=0)
        assert torch.equal(p.codes_NK, split[name].codes_NK)


MODES: list[dict[str, object]] = [
    {"mode": "residual", "accumulator": "int4"},
    {"mode": "residual", "accumulator": "bfloat16"},
    {"mode": "residual", "momentum": "int8", "gate_sigma": 0.5},
    {"mode": "residual", "momentum": "low_rank"},
    {"mode": "rank", "momentum": "int8"},
    {"mode": "rank", "momentum": "int4", "gate_sigma": 1.0},
    {"mode": "sr", "momentum": "float32"},
    {"mode": "eco", "momentum": "float32"},
    {"mode": "adam_rtn", "momentum": "float32", "code_learning_rate": 0.05},
]


@pytest.mark.parametrize("settings", MODES, ids=lambda settings: "-".join(map(str, settings.values())))
def test_every_rule_lowers_a_quadratic_loss(settings: dict[str, object]) -> None:
    parameters = quantized()
    target = {
        name: w_NK + 0.04 * torch.randn(N, K, generator=torch.Generator().manual_seed(7))
        for name, w_NK in weights().items()
    }
    steps = 60
    optimizer = DiodeMix(
        parameters,
        Settings.model_validate({"mode": "residual", "code_learning_rate": 5e-3, "flip_budget": 0.5} | settings),
        Schedule(steps=steps, warmup_fraction=0.1),
        seed=0,
        float_weight=weights().__getitem__,
    )

    def error() -> float:
        return sum(float((p.dequantize(torch.float32) - target[name]).square().sum()) for name, p in parameters.items())

    before = error()
    for step in range(steps):
        optimizer.start(step)
        for name, p in parameters.items():
            optimizer.receive(name, 2 * (p.dequantize(torch.float32) - target[name]))
        optimizer.finish()
    assert optimizer.total_flips > 0
    # A subspace of 6 directions sees 6 of 128.
    assert error() < (0.99 if settings.get("momentum") == "low_rank" else 0.85) * before


def test_the_momentum_gets_the_whole_step_back_of_codes_that_the_gate_holds() -> None:
    cpu, beta = torch.device("cpu"), 0.9
    momentum = DenseMomentum(N, K, "float32", cpu)
    rule = ErrorIntoMomentum(Average(momentum, beta, gate_sigma=1e6))
    now = Now(
        codes_NK=torch.full((N, K), 4, dtype=torch.uint8),
        top_code=15,
        row_root_N=torch.ones(N),
        column_root_K=torch.ones(K),
        levels_NG=torch.full((N, 1), 3.0),
        dither=draw_dither(N, K, torch.Generator().manual_seed(0), cpu),
    )
    rule.receive(torch.ones(N, K), now, is_first=True)
    before_NK = momentum.read(slice(None))
    assert len(rule.wishes(now).index_C) == 0
    torch.testing.assert_close(momentum.read(slice(None)), before_NK / beta)


@pytest.mark.parametrize("settings", [*MODES, {"mode": "scales_only"}, {"trust_every": 3}], ids=str)
def test_a_run_continued_from_its_state_equals_the_straight_one(settings: dict[str, object]) -> None:
    straight, first = quantized(), quantized()
    run(straight, **settings)

    optimizer = optimizer_of(first, **settings)
    for step in range(5):
        optimizer.start(step)
        for name, grad_NK in gradients(step).items():
            optimizer.receive(name, grad_NK)
        optimizer.finish()
    saved = {key: tensor.clone() for key, tensor in optimizer.state_dict().items()}
    second = {name: p.to(p.device) for name, p in first.items()}
    again = optimizer_of(second, **settings)
    again.load_state_dict(saved)
    for step in range(5, STEPS):
        again.start(step)
        for name, grad_NK in gradients(step).items():
            again.receive(name, grad_NK)
        again.finish()
    assert all(torch.equal(x, y) for x, y in zip(snapshot(straight), snapshot(second), strict=True))


def test_flips_that_cost_are_taken_back_and_the_rate_falls() -> None:
    parameters = quantized()
    optimizer = optimizer_of(parameters, trust_every=1)
    before = [p.codes_NK.clone() for p in parameters.values()]
    for step in range(4):
        optimizer.start(step)
        for name, grad_NK in gradients(step).items():
            optimizer.receive(name, grad_NK)
        optimizer.finish()
    flips = optimizer.total_flips
    moved = [not torch.equal(p.codes_NK, old) for p, old in zip(parameters.values(), before, strict=True)]
    assert all(moved)

    def loss() -> float:  # flips are bad, all of them
        pairs = zip(parameters.values(), before, strict=True)
        return float(sum((p.codes_NK != old).sum() for p, old in pairs))

    review = optimizer.review(loss)
    assert (review.flips, review.taken_back, review.trust) == (flips, flips, 0.5)
    assert review.gain < 0
    assert all(torch.equal(p.codes_NK, old) for p, old in zip(parameters.values(), before, strict=True))
    assert optimizer.total_flips == 0


def test_flips_that_help_stay() -> None:
    parameters = quantized()
    optimizer = optimizer_of(parameters, trust_every=1)
    for step in range(4):
        optimizer.start(step)
        for name, grad_NK in gradients(step).items():
            optimizer.receive(name, grad_NK)
        optimizer.finish()
    after = [p.codes_NK.clone() for p in parameters.values()]

    def loss() -> float:
        pairs = zip(parameters.values(), after, strict=True)
        return float(sum((p.codes_NK != new).sum() for p, new in pairs))

    review = optimizer.review(loss)
    assert (review.taken_back, review.trust) == (0, 1.0)
    assert review.gain > 0  # not all of them: a code may have moved up and down again
    assert review.flips == optimizer.total_flips
    assert all(torch.equal(p.codes_NK, new) for p, new in zip(parameters.values(), after, strict=True))
