"""What sampling promises, checked on distributions small enough to see."""

import math
from collections import Counter

import pytest
import torch
from bitsmith_core.chat import Sampling
from bitsmith_engine.chat.sampling import choose

# Probabilities 0.5, 0.3, 0.15, 0.05 of the tokens 2, 0, 3, 1.
LOGITS = torch.tensor([0.3, 0.05, 0.5, 0.15]).log()
GRID = [(n + 0.5) / 1000 for n in range(1000)]


def shares(sampling: Sampling, counts: dict[int, int] | None = None) -> dict[int, float]:
    """How much of [0, 1) leads to each token."""
    chosen = Counter(choose(LOGITS, sampling, counts or {}, uniform) for uniform in GRID)
    return {token: count / len(GRID) for token, count in sorted(chosen.items())}


def test_tokens_are_drawn_as_often_as_the_model_says() -> None:
    assert shares(Sampling()) == pytest.approx({0: 0.3, 1: 0.05, 2: 0.5, 3: 0.15})


def test_temperature_zero_takes_the_likeliest() -> None:
    assert shares(Sampling(temperature=0)) == {2: 1.0}


def test_temperature_flattens_and_sharpens() -> None:
    squares = {0: 0.09, 1: 0.0025, 2: 0.25, 3: 0.0225}
    total = sum(squares.values())
    assert shares(Sampling(temperature=0.5)) == pytest.approx({t: p / total for t, p in squares.items()}, abs=2e-3)
    assert shares(Sampling(temperature=2))[1] > 0.1


def test_a_tiny_temperature_does_not_overflow() -> None:
    assert shares(Sampling(temperature=1e-6)) == {2: 1.0}


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p() -> None:
    assert shares(Sampling(top_p=0.8)) == pytest.approx({0: 0.375, 2: 0.625})
    assert shares(Sampling(top_p=0.81)) == pytest.approx({0: 0.3 / 0.95, 2: 0.5 / 0.95, 3: 0.15 / 0.95}, abs=1e-3)
    assert shares(Sampling(top_p=1e-9)) == {2: 1.0}


def test_penalties_subtract_from_the_logits_of_what_was_said() -> None:
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    factors = {0: math.exp(-1.0), 2: math.exp(-0.75)}  # said twice and once
    p = {0: 0.3 * factors[0], 1: 0.05, 2: 0.5 * factors[2], 3: 0.15}
    expected = {token: share / sum(p.values()) for token, share in p.items()}
    assert shares(sampling, {0: 2, 2: 1}) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("uniform", [0.0, math.nextafter(1.0, 0.0)])
def test_the_ends_of_the_unit_interval_are_tokens_too(uniform: float) -> None:
    assert choose(LOGITS, Sampling(), {}, uniform) in range(4)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.tensor([float("-inf"), 0.0, float("-inf")])
    assert {choose(logits, Sampling(), {}, uniform) for uniform in (0.0, 0.5, math.nextafter(1.0, 0.0))} == {1}
