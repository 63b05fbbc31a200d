"""Ratings say how likely one answer beats another, with intervals that admit how little was asked."""

import math
import random

import pytest
from bitsmith_core.registry.elo import Verdict, Winner, elo, position_bias


def duels(wins: int, losses: int, ties: int = 0, *, first: int = 0, second: int = 1, start: int = 0) -> list[Verdict]:
    """One a prompt."""
    counts: tuple[tuple[Winner, int], ...] = (("first", wins), ("second", losses), ("tie", ties))
    winners = [winner for winner, count in counts for _ in range(count)]
    return [Verdict(start + number, first, second, winner) for number, winner in enumerate(winners)]


def test_odds_of_ten_to_one_are_400_points() -> None:
    strong, weak = elo(duels(10_000, 1_000), 2, resamples=0)
    assert strong.rating - weak.rating == pytest.approx(400, abs=0.5)
    assert strong.rating + weak.rating == pytest.approx(2000)


def test_a_tie_is_half_a_win_for_each() -> None:
    with_ties, without = elo(duels(600, 200, 400), 2, resamples=0), elo(duels(800, 400), 2, resamples=0)
    assert with_ties[0].rating == pytest.approx(without[0].rating, abs=0.01)
    assert (with_ties[0].wins, with_ties[0].losses, with_ties[0].ties) == (600, 200, 400)
    assert (with_ties[1].wins, with_ties[1].losses, with_ties[1].ties) == (200, 600, 400)


def test_the_ratings_are_where_the_likelihood_is_highest() -> None:
    """Three contestants: no step of any of them makes what was seen more likely."""
    verdicts = [*duels(300, 200), *duels(250, 150, first=1, second=2), *duels(310, 190, first=0, second=2)]
    found = [rating.rating for rating in elo(verdicts, 3, resamples=0)]

    def log_likelihood(ratings: list[float]) -> float:
        total = 0.0
        for _, first, second, winner in verdicts:
            gap = ratings[first] - ratings[second] if winner == "first" else ratings[second] - ratings[first]
            total -= math.log1p(10 ** (-gap / 400))
        return total

    best = log_likelihood(found)
    for contestant in range(3):
        for step in (-3.0, 3.0):
            assert log_likelihood([r + step * (i == contestant) for i, r in enumerate(found)]) < best


def test_who_won_everything_is_ahead_by_a_finite_lead() -> None:
    winner, loser = elo(duels(20, 0), 2)
    assert 400 < winner.rating - loser.rating < 2000


def test_a_contestant_nobody_judged_is_average() -> None:
    assert elo(duels(5, 5), 3)[2].rating == pytest.approx(1000)
    assert [rating.rating for rating in elo([], 2)] == [1000, 1000]


def test_intervals_hold_the_truth_and_shrink_with_more_prompts() -> None:
    chance = random.Random(0)
    truth = 400 * math.log10(0.65 / 0.35) / 2
    covered = 0
    for trial in range(40):
        wins = sum(chance.random() < 0.65 for _ in range(150))
        found = elo(duels(wins, 150 - wins), 2, seed=trial)[0]
        covered += found.low <= 1000 + truth <= found.high
    assert covered >= 35
    few, many = elo(duels(13, 7), 2)[0], elo(duels(1300, 700), 2)[0]
    assert (few.high - few.low) > 5 * (many.high - many.low)


def test_verdicts_on_one_prompt_are_drawn_together() -> None:
    """A hundred verdicts on a single prompt say no more than one of them."""
    lone = [Verdict(0, 0, 1, "first")] * 100
    apart = [Verdict(number, 0, 1, "first" if number % 3 else "second") for number in range(100)]
    assert elo(lone, 2)[0].low == elo(lone, 2)[0].high
    assert elo(apart, 2)[0].low < elo(apart, 2)[0].high


def test_the_interval_is_a_function_of_the_seed() -> None:
    assert elo(duels(30, 20), 2, seed=1) == elo(duels(30, 20), 2, seed=1)
    assert elo(duels(30, 20), 2, seed=1) != elo(duels(30, 20), 2, seed=2)


def test_a_judge_that_likes_what_it_sees_first_is_found_out() -> None:
    both = [Verdict(prompt, a, b, "first") for prompt in range(10) for a, b in ((0, 1), (1, 0))]
    bias = position_bias(both)
    assert (bias.first_share, bias.both_orders, bias.agreeing) == (1.0, 10, 0)
    fair = [Verdict(p, a, b, "first" if a == 0 else "second") for p in range(10) for a, b in ((0, 1), (1, 0))]
    assert (position_bias(fair).first_share, position_bias(fair).agreeing) == (0.5, 10)
    ties = [Verdict(0, 0, 1, "tie"), Verdict(0, 1, 0, "tie")]
    assert (position_bias(ties).first_share, position_bias(ties).agreeing) == (None, 1)
    assert elo(both, 2)[0].rating == pytest.approx(1000)
