"""What the update rules promise, each against an independent implementation."""

import math
import time

import pytest
import torch
from bitsmith_engine.optim import rules
from bitsmith_engine.optim.schedule import Schedule
from reference.diodemix import FactoredMoment


def test_adamw_equals_that_of_torch() -> None:
    random = torch.Generator().manual_seed(0)
    ours = torch.randn(5, 3, generator=random)
    theirs = torch.nn.Parameter(ours.clone())
    oracle = torch.optim.AdamW([theirs], lr=3e-2, weight_decay=0.0, eps=1e-8)
    first, second = torch.zeros(5, 3), torch.zeros(5, 3)
    for step in range(1, 20):
        grad = torch.randn(5, 3, generator=random)
        theirs.grad = grad.clone()
        oracle.step()
        rules.adamw_(ours, first, second, grad, step=step, rate=3e-2, eps=1e-8)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_the_factored_moment_equals_the_slow_one() -> None:
    random = torch.Generator().manual_seed(0)
    moment, slow = rules.Moment(torch.zeros(4), torch.zeros(6)), FactoredMoment(beta=0.9)
    for step in range(1, 6):
        grad = torch.randn(4, 6, generator=random)
        rules.observe_(moment, grad.square().mean(1), grad.square().mean(0), beta=0.9)
        roots = rules.inverse_roots(moment, row_mean=moment.row_N.mean(), step=step, beta=0.9)
        ours = grad * roots.row_N.unsqueeze(1) * roots.column_K
        torch.testing.assert_close(ours, torch.tensor(slow.observe(grad.tolist())), rtol=1e-5, atol=1e-6)


def test_a_gradient_of_rank_one_is_normalized_to_ones() -> None:
    grad = torch.outer(torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 4.0]))
    moment = rules.Moment(torch.zeros(3), torch.zeros(2))
    rules.observe_(moment, grad.square().mean(1), grad.square().mean(0), beta=0.99)
    roots = rules.inverse_roots(moment, row_mean=moment.row_N.mean(), step=1, beta=0.99)
    torch.testing.assert_close(grad * roots.row_N.unsqueeze(1) * roots.column_K, grad.sign())


def test_sketches_estimate_mean_squares_and_add_up() -> None:
    random = torch.Generator().manual_seed(0)
    parts = torch.randn(4, 300, 500, generator=random)
    probes = torch.randint(0, 2, (4096, 500), generator=random).float() * 2 - 1
    sketch = sum((probes @ part.T for part in parts), torch.zeros(4096, 300))
    expected = parts.sum(0).square().mean(1)
    torch.testing.assert_close(rules.mean_squares(sketch, over=500), expected, rtol=0.12, atol=0)


@pytest.mark.parametrize("count", [1, 7, 20])
def test_a_sum_over_sampled_tokens_has_the_sum_over_all_for_its_mean(count: int) -> None:
    random = torch.Generator().manual_seed(0)
    values_TF = torch.randn(40, 5, generator=random) * torch.rand(40, 1, generator=random) ** 4
    offsets = [(step + 0.5) / 4000 for step in range(4000)]
    samples = [rules.sample_tokens(values_TF.norm(dim=1), count=count, offset=offset) for offset in offsets]
    sums_SF = torch.stack([(values_TF[s.index_A] * s.factor_A.unsqueeze(1)).sum(0) for s in samples])
    torch.testing.assert_close(sums_SF.mean(0), values_TF.sum(0), rtol=1e-2, atol=2e-2)
    assert {abs(len(sample.index_A) - count) <= 1 for sample in samples} == {True}
    assert all(bool((sample.factor_A >= 1).all()) for sample in samples)


def test_all_tokens_are_taken_when_as_many_are_wanted() -> None:
    sample = rules.sample_tokens(torch.tensor([1.0, 5.0, 0.1]), count=3, offset=0.3)
    assert sample.index_A.tolist() == [0, 1, 2]
    torch.testing.assert_close(sample.factor_A, torch.ones(3))


def test_best_first_takes_the_largest_and_no_more_than_allowed() -> None:
    assert rules.best_first(torch.tensor([0.6, 0.9, 0.7]), 2).tolist() == [1, 2]
    assert rules.best_first(torch.tensor([0.6, 0.9]), 5).tolist() == [0, 1]
    assert rules.best_first(torch.tensor([0.6, 0.9]), 0).tolist() == []


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(steps=20, warmup_fraction=0.2)
    factors = [schedule.factor(step) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 0.02


@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_a_budget_is_released_completely_and_never_taken_back(warmup: float) -> None:
    schedule = Schedule(steps=10, warmup_fraction=warmup)
    shares = [schedule.share_until(step) for step in range(10)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_budget_is_released_in_step_with_the_learning_rate() -> None:
    schedule = Schedule(steps=10, warmup_fraction=0.2)
    factors = [schedule.factor(step) for step in range(10)]
    expected = [math.fsum(factors[: step + 1]) / math.fsum(factors) for step in range(10)]
    assert [schedule.share_until(step) for step in range(10)] == pytest.approx(expected, rel=1e-12)


def test_asking_for_the_share_of_every_step_of_a_long_run_is_fast() -> None:
    schedule = Schedule(steps=20_000, warmup_fraction=0.03)
    began = time.process_time()
    for step in range(schedule.steps):
        schedule.share_until(step)
    assert time.process_time() - began < 5  # minutes where each asks for the whole run
