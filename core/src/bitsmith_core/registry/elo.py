"""Ratings from pairwise verdicts. Pure, in plain Python.

Bradley & Terry: contestant i wins against j with probability s_i / (s_i + s_j); a tie is half a win for each. The
strengths are the maximum of the likelihood, found by Zermelo's iteration

    s_i <- W_i / sum_j n_ij / (s_i + s_j)

with half a tie of each contestant, spread over all others, which keeps who won or lost everything finite and shifts
everybody else by next to nothing. Only ratios count, so the mean is kept where it is. Ratings are s on Elo's scale, 400
points for odds of ten to one, 1000 on average.

The intervals are of a bootstrap over prompts: verdicts on the same prompt are not independent, prompts are.

Source: Bradley & Terry 1952, https://doi.org/10.2307/2334029; Hunter 2004, https://doi.org/10.1214/aos/1079120141 (the
iteration); Zheng et al. 2023, https://arxiv.org/abs/2306.05685 (judges, and their bias for a position).
"""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

RESAMPLES = 200
MEAN_RATING = 1000.0
_POINTS = 400 / math.log(10)  # of a factor e in the odds
_PRIOR = 0.5  # games of each contestant, all of them ties
_TOLERANCE = 1e-6  # relative change of a strength

Winner = Literal["first", "second", "tie"]


class Verdict(NamedTuple):
    """Which of two answers to a prompt is better. Contestants are numbers; `first` was shown first."""

    prompt: int
    first: int
    second: int
    winner: Winner


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    rating: float
    low: float  # 95 % interval
    high: float
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """What a judge makes of the order in which two answers are shown."""

    first_wins: int
    second_wins: int
    ties: int
    both_orders: int  # prompts and pairs that were shown in either order
    agreeing: int  # of those: the same verdict both times

    @property
    def first_share(self) -> float | None:
        """Of the decided verdicts, those for what was shown first; 0.5: the judge does not mind."""
        decided = self.first_wins + self.second_wins
        return self.first_wins / decided if decided else None


Games = list[list[float]]
"""wins[i][j]: what i won against j."""


def elo(verdicts: Sequence[Verdict], contestants: int, *, seed: int = 0, resamples: int = RESAMPLES) -> list[Rating]:
    """A rating for each contestant, in their order; there are at least two."""
    by_prompt: dict[int, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_prompt[verdict.prompt].append(verdict)
    prompts = list(by_prompt.values())
    strengths = _strengths(_games(verdicts, contestants), [1.0] * contestants)
    found = _ratings(strengths)

    chance = random.Random(seed)
    drawn: list[list[float]] = []
    for _ in range(resamples if prompts else 0):
        sample = [verdict for group in chance.choices(prompts, k=len(prompts)) for verdict in group]
        drawn.append(_ratings(_strengths(_games(sample, contestants), strengths)))
    counts = _counts(verdicts, contestants)
    return [
        Rating(
            rating=found[i],
            low=_quantile([ratings[i] for ratings in drawn], 0.025, found[i]),
            high=_quantile([ratings[i] for ratings in drawn], 0.975, found[i]),
            wins=counts[i][0],
            losses=counts[i][1],
            ties=counts[i][2],
        )
        for i in range(contestants)
    ]


def position_bias(verdicts: Sequence[Verdict]) -> Bias:
    winners = [verdict.winner for verdict in verdicts]
    shown = {(v.prompt, v.first, v.second): v.winner for v in verdicts}
    mirrored = {"first": "second", "second": "first", "tie": "tie"}
    twice = [
        winner == mirrored[shown[prompt, second, first]]
        for (prompt, first, second), winner in shown.items()
        if first < second and (prompt, second, first) in shown
    ]
    return Bias(
        first_wins=winners.count("first"),
        second_wins=winners.count("second"),
        ties=winners.count("tie"),
        both_orders=len(twice),
        agreeing=sum(twice),
    )


def _games(verdicts: Sequence[Verdict], contestants: int) -> Games:
    won = [[0.0] * contestants for _ in range(contestants)]
    for _, first, second, winner in verdicts:
        share = 1.0 if winner == "first" else 0.0 if winner == "second" else 0.5
        won[first][second] += share
        won[second][first] += 1 - share
    return won


def _strengths(won: Games, start: list[float]) -> list[float]:
    n = len(won)
    virtual = _PRIOR / (n - 1)
    totals = [sum(row) + _PRIOR / 2 for row in won]
    played = [[(j, won[i][j] + won[j][i] + virtual) for j in range(n) if j != i] for i in range(n)]
    strengths = list(start)
    for _ in range(1000):
        before = list(strengths)
        for i in range(n):
            mine = strengths[i]
            strengths[i] = totals[i] / sum(count / (mine + strengths[j]) for j, count in played[i])
        mean = math.exp(math.fsum(map(math.log, strengths)) / n)
        strengths = [strength / mean for strength in strengths]
        if all(abs(now / then - 1) < _TOLERANCE for now, then in zip(strengths, before, strict=True)):
            break
    return strengths


def _ratings(strengths: list[float]) -> list[float]:
    logs = [math.log(strength) for strength in strengths]
    mean = math.fsum(logs) / len(logs)
    return [MEAN_RATING + _POINTS * (value - mean) for value in logs]


def _counts(verdicts: Sequence[Verdict], contestants: int) -> list[tuple[int, int, int]]:
    counts = [[0, 0, 0] for _ in range(contestants)]
    for _, first, second, winner in verdicts:
        counts[first][{"first": 0, "second": 1, "tie": 2}[winner]] += 1
        counts[second][{"first": 1, "second": 0, "tie": 2}[winner]] += 1
    return [(wins, losses, ties) for wins, losses, ties in counts]


def _quantile(values: list[float], share: float, otherwise: float) -> float:
    """Between the two values next to it, by how near they are."""
    if not values:
        return otherwise
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
