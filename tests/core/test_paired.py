"""What the registry's own statistics promise: exact p-values, intervals that cover, nothing borrowed from numpy."""

import math
import random
from itertools import product

import pytest
from bitsmith_core.bundle import AnswerLoss
from bitsmith_core.registry.paired import (
    holm,
    mcnemar,
    paired_answers,
    paired_losses,
    student_p,
    student_quantile,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("discordant", range(11))
def test_the_p_value_is_the_share_of_coin_tosses_at_least_as_uneven(discordant: int) -> None:
    tosses = [sum(toss) for toss in product((0, 1), repeat=discordant)]
    for heads in range(discordant + 1):
        unevenness = abs(2 * heads - discordant)
        as_uneven = sum(abs(2 * found - discordant) >= unevenness for found in tosses)
        assert mcnemar(heads, discordant - heads) == pytest.approx(as_uneven / len(tosses))


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (10, 2.2281), (30, 2.0423)])
def test_students_t_is_that_of_the_printed_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(0.95, freedom) == pytest.approx(quantile, abs=5e-5)
    assert student_p(quantile, freedom) == pytest.approx(0.05, abs=1e-5)
    assert student_p(-quantile, freedom) == student_p(quantile, freedom)


def test_students_t_becomes_the_normal_distribution() -> None:
    for t in (0.1, 1.0, 1.959964, 3.0):
        assert student_p(t, 10_000_000) == pytest.approx(math.erfc(t / math.sqrt(2)), rel=1e-5)


def test_with_one_degree_of_freedom_it_is_cauchys_distribution() -> None:
    for t in (0.01, 0.5, 1.0, 7.0, 1000.0):
        assert student_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-9)


def test_answers_count_only_where_the_two_differ() -> None:
    first = [True] * 9 + [False] * 3
    second = [True] * 4 + [False] * 6 + [True, False]
    found = paired_answers(first, second)
    assert found.n == 12
    assert found.difference == pytest.approx(4 / 12)
    assert found.p_value == pytest.approx(2 * (1 + 6) / 2**6)


@pytest.mark.parametrize(
    ("wins", "losses", "low", "high"),
    [(8, 2, 0.4439, 0.9748), (10, 0, 0.6915, 1.0), (60, 40, 0.4972, 0.6967)],
)
def test_the_interval_s_end_towards_zero_is_clopper_and_pearsons_of_the_printed_tables(
    wins: int, losses: int, low: float, high: float
) -> None:
    first, second = [True] * wins + [False] * losses, [False] * wins + [True] * losses
    found, turned = paired_answers(first, second), paired_answers(second, first)
    assert found.low == pytest.approx(2 * low - 1, abs=2e-4)
    assert found.high is not None
    assert found.high >= 2 * high - 1 - 2e-4
    assert (turned.low, turned.high) == pytest.approx((-found.high, -(found.low or 0)))


@given(
    wins=st.integers(0, 60),
    losses=st.integers(0, 60),
    equal=st.integers(1, 200),
    confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_an_interval_of_answers_and_its_p_value_say_the_same(
    wins: int, losses: int, equal: int, confidence: float
) -> None:
    both = [True] * equal
    first, second = [True] * wins + [False] * losses + both, [False] * wins + [True] * losses + both
    found = paired_answers([*first, True], [*second, True], confidence=confidence)
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low <= found.difference <= found.high <= 1
    assert (found.low > 0 or found.high < 0) == (found.p_value < 1 - confidence)


def test_two_equal_models_differ_by_nothing_for_sure() -> None:
    right = [True, False] * 20
    losses = [AnswerLoss(nll=1.5, tokens=3)] * 5
    for found in (paired_answers(right, right), paired_losses(losses, losses)):
        assert (found.difference, found.stderr, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_a_loss_is_per_token_whatever_the_lengths() -> None:
    first = [AnswerLoss(nll=3.0, tokens=2), AnswerLoss(nll=20.0, tokens=10)]
    second = [AnswerLoss(nll=2.0, tokens=2), AnswerLoss(nll=14.0, tokens=10)]
    assert paired_losses(first, second).difference == pytest.approx(7 / 12)


def test_one_item_decides_nothing() -> None:
    found = paired_losses([AnswerLoss(nll=9.0, tokens=1)], [AnswerLoss(nll=1.0, tokens=1)])
    assert (found.difference, found.stderr, found.p_value) == (8.0, None, 1.0)


@pytest.mark.parametrize("items", [8, 60])
def test_ninety_five_of_a_hundred_intervals_hold_the_truth_with_few_items_too(items: int) -> None:
    chance = random.Random(0)
    truth, trials = 0.1, 2000
    covered = refused = 0
    for _ in range(trials):
        tokens = [chance.randrange(10, 30) for _ in range(items)]
        second = [AnswerLoss(nll=0.0, tokens=count) for count in tokens]
        first = [AnswerLoss(nll=count * chance.gauss(truth, 0.5), tokens=count) for count in tokens]
        found = paired_losses(first, second)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
        null = [AnswerLoss(nll=count * chance.gauss(0.0, 0.5), tokens=count) for count in tokens]
        refused += paired_losses(null, second).p_value < 0.05
    assert covered / trials == pytest.approx(0.95, abs=0.02)
    assert refused / trials == pytest.approx(0.05, abs=0.02)


def test_tests_that_are_read_together_are_held_to_one_confidence() -> None:
    # Holm's own rule, by hand: 3 * 0.01, then 2 * 0.02, then 1 * 0.03, and never less than the one before.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_of_a_suite_of_equal_models_hardly_any_stands_out() -> None:
    chance = random.Random(1)
    suites = 2000
    alarmed = sum(min(holm([chance.random() for _ in range(13)])) < 0.05 for _ in range(suites))
    assert alarmed / suites < 0.06
