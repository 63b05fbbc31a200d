"""Is one model better than another? The statistics of two lists of the same items, in plain Python.

Right or wrong: McNemar's exact test. Of the b + c items that only one of the two gets right, either is as likely to be
the one if neither model is better:

    p = min(1, 2 * sum_{k <= min(b, c)} C(b + c, k) / 2^(b + c))

The interval inverts that test (Clopper-Pearson for the share pi of b in b + c, taken over to (2 pi - 1) (b + c) / n),
so it leaves out zero exactly where p says so; the end away from zero is Student's where that lies farther, since b + c
is not known any better.

Losses, per token: the difference is a ratio whose n clusters are the items, d_i = nll_i(first) - nll_i(second):

    D      = sum d_i / T,   T = sum of tokens
    stderr = sqrt( n / (n - 1) * sum_i (d_i - D * tokens_i)^2 ) / T
    p      = P(|t| >= |D| / stderr)     Student's t with n - 1 degrees of freedom

Several tests at once: Holm's step-down, so that of many tasks one does not stand out by chance alone.

`bitsmith_engine.evaluate.compare` answers the same with a bootstrap and numpy; a test holds the two together.

Source: McNemar 1947, https://doi.org/10.1007/BF02295996; Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404;
Cochran 1977, Sampling Techniques, section 6.3 (the ratio);
Press et al. 2007, Numerical Recipes, section 6.4 (the incomplete beta function); Holm 1979,
https://www.jstor.org/stable/4615733.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitsmith_core.bundle import AnswerLoss

_TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The first model's value minus the second's. Shares of right answers, or nats per token."""

    n: int  # items
    difference: float
    stderr: float | None  # None: a single item tells nothing of it
    low: float | None  # the interval of that confidence
    high: float | None
    p_value: float  # two-sided


def paired_answers(first: Sequence[bool], second: Sequence[bool], *, confidence: float = 0.95) -> Paired:
    """Equal positions are the same item."""
    gains = [a - b for a, b in zip(first, second, strict=True)]
    wins, losses = gains.count(1), gains.count(-1)
    found = _paired([float(gain) for gain in gains], [1.0] * len(gains), confidence=confidence)
    if found.stderr is None:
        return found
    low, high = (share * (wins + losses) / len(gains) for share in _unevenness(wins, losses, confidence))
    if found.low is not None and wins <= losses:
        low = max(-1.0, min(low, found.low))
    if found.high is not None and wins >= losses:
        high = min(1.0, max(high, found.high))
    return replace(found, low=low, high=high, p_value=mcnemar(wins, losses))


def paired_losses(first: Sequence[AnswerLoss], second: Sequence[AnswerLoss], *, confidence: float = 0.95) -> Paired:
    """Equal positions are the same item; negative: the first model is better."""
    gains = [a.nll - b.nll for a, b in zip(first, second, strict=True)]
    return _paired(gains, [float(item.tokens) for item in first], confidence=confidence)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value, 1.0 if the two models never differ."""
    discordant = only_first + only_second
    term, tail = 1, 0
    for k in range(min(only_first, only_second) + 1):
        tail += term
        term = term * (discordant - k) // (k + 1)  # C(n, k + 1), exactly
    return min(1.0, tail / (1 << discordant) * 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of tests that are read together, in their order: each may be held against one confidence."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def student_p(t: float, freedom: int) -> float:
    """How likely Student's t is at least this far from zero."""
    return 1.0 if t == 0 else _beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)


def student_quantile(confidence: float, freedom: int) -> float:
    """What |t| stays below with this probability."""
    low, high = 0.0, 2.0
    while student_p(high, freedom) > 1 - confidence:
        low, high = high, high * 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, freedom) > 1 - confidence else (low, middle)
    return high


def _paired(gains: list[float], weights: list[float], *, confidence: float) -> Paired:
    n, total = len(gains), math.fsum(weights)
    difference = math.fsum(gains) / total
    if n < 2:
        return Paired(n=n, difference=difference, stderr=None, low=None, high=None, p_value=1.0)
    scatter = math.fsum((gain - difference * weight) ** 2 for gain, weight in zip(gains, weights, strict=True))
    stderr = math.sqrt(n / (n - 1) * scatter) / total
    p_value = student_p(difference / stderr, n - 1) if stderr else float(difference == 0)
    reach = student_quantile(confidence, n - 1) * stderr
    return Paired(
        n=n, difference=difference, stderr=stderr, low=difference - reach, high=difference + reach, p_value=p_value
    )


def _unevenness(wins: int, losses: int, confidence: float) -> tuple[float, float]:
    """The exact interval of 2 pi - 1, pi being how likely an item that only one gets right is the first model's."""
    if wins + losses == 0:
        return 0.0, 0.0
    tail = (1 - confidence) / 2
    low = _beta_quantile(tail, wins, losses + 1) if wins else 0.0
    high = _beta_quantile(1 - tail, wins + 1, losses) if losses else 1.0
    return 2 * low - 1, 2 * high - 1


def _beta_quantile(share: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_share(middle, a, b) < share else (low, middle)
    return (low + high) / 2


def _beta_share(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by its continued fraction where that converges fast."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """Lentz's method, both recurrences at once."""
    c, d = 1.0, 1 / _kept_away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _kept_away(1 + term * d)
            c = _kept_away(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _kept_away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
