"""Is one model better than another? Answered from the same items, pair by pair, so that what is hard for both cancels.

Correct or not: McNemar's exact test. Of the b + c items that only one of the two gets right, either is as likely to be
the one if neither model is better:

    p = min(1, 2 * sum_{k <= min(b, c)} C(b + c, k) / 2^(b + c))

Differences: a paired bootstrap over items. Each resample draws items with replacement and takes both models' results of
each; the interval is the 2.5 % and 97.5 % quantiles of the difference. A loss is per token, so its difference is

    sum of (nll_first - nll_second) / sum of tokens

Nothing here runs a model. Results on different items are refused: `comparable_key` says whether they are the same.

Source: McNemar 1947, https://doi.org/10.1007/BF02295996; Efron & Tibshirani 1993, An Introduction to the Bootstrap,
chapter 13; Koehn 2004, https://aclanthology.org/W04-3250 (pairing).
"""

from collections.abc import Sequence

import numpy as np
from bitsmith_core.bundle import AnswerLoss, Evals, Subject, SubjectItems
from pydantic import BaseModel, ConfigDict

RESAMPLES = 10_000
_DRAWS_AT_ONCE = 1 << 21  # item numbers held at a time: 16 MB


class Difference(BaseModel):
    """The first model's value minus the second's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float  # 95 % interval
    high: float


class PairedAccuracy(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int
    only_first: int  # items that only the first model gets right
    only_second: int
    difference: Difference  # of shares of right answers
    p_value: float  # McNemar, exact, two-sided


class PairedLoss(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int
    difference: Difference  # nats per token; negative: the first model is better


class Comparison(BaseModel):
    """One task and metric of two models. Exactly one of accuracy, loss and refused is there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    metric: str
    accuracy: PairedAccuracy | None = None
    loss: PairedLoss | None = None
    refused: str | None = None  # why there is no comparison


def compare_accuracy(first: Sequence[bool], second: Sequence[bool], *, seed: int) -> PairedAccuracy:
    """Equal positions are the same item."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    gains = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return PairedAccuracy(
        n=len(first),
        only_first=only_first,
        only_second=only_second,
        difference=bootstrap(gains, np.ones(len(gains)), seed=seed),
        p_value=mcnemar(only_first, only_second),
    )


def compare_loss(first: Sequence[AnswerLoss], second: Sequence[AnswerLoss], *, seed: int) -> PairedLoss:
    """Equal positions are the same item."""
    gains = np.array([a.nll - b.nll for a, b in zip(first, second, strict=True)])
    tokens = np.array([float(a.tokens) for a in first])
    return PairedLoss(n=len(first), difference=bootstrap(gains, tokens, seed=seed))


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value, 1.0 if the two models never differ."""
    discordant = only_first + only_second
    term, tail = 1, 0
    for k in range(min(only_first, only_second) + 1):
        tail += term
        term = term * (discordant - k) // (k + 1)  # C(n, k + 1), exactly
    return min(1.0, tail / (1 << discordant) * 2)


def bootstrap(gains_n: np.ndarray, weights_n: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> Difference:
    """sum(gains) / sum(weights) with its 95 % interval over resampled items."""
    random = np.random.default_rng(seed)
    n = len(gains_n)
    found: list[np.ndarray] = []
    step = max(1, _DRAWS_AT_ONCE // n)
    for start in range(0, resamples, step):
        drawn_Rn = random.integers(0, n, size=(min(step, resamples - start), n))
        found.append(gains_n[drawn_Rn].sum(1) / weights_n[drawn_Rn].sum(1))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return Difference(value=float(gains_n.sum() / weights_n.sum()), low=float(low), high=float(high))


def compare(first: Evals, of_first: Subject, second: Evals, of_second: Subject, *, seed: int = 0) -> list[Comparison]:
    """Every task and metric that either model was scored on; two evals may be one and the same.

    Raises:
        ValueError: one of them has no such subject.
    """
    ours, theirs = _items(first, of_first), _items(second, of_second)
    keys, other_keys = _keys(first, of_first), _keys(second, of_second)
    compared = []
    for task, metric in keys | other_keys:
        reason = _refusal(keys.get((task, metric)), other_keys.get((task, metric)))
        if reason is not None:
            compared.append(Comparison(task=task, metric=metric, refused=reason))
        elif metric == "perplexity":
            loss = compare_loss(ours.answer_perplexity, theirs.answer_perplexity, seed=seed)
            compared.append(Comparison(task=task, metric=metric, loss=loss))
        else:
            accuracy = compare_accuracy(_right(ours, task, metric), _right(theirs, task, metric), seed=seed)
            compared.append(Comparison(task=task, metric=metric, accuracy=accuracy))
    return compared


def _items(evals: Evals, subject: Subject) -> SubjectItems:
    for items in evals.items:
        if items.subject == subject:
            return items
    raise ValueError(f"there are no items of {subject!r}; there are {[items.subject for items in evals.items]}")


def _keys(evals: Evals, subject: Subject) -> dict[tuple[str, str], str]:
    return {(score.task, score.metric): score.comparable_key for score in evals.scores if score.subject == subject}


def _refusal(key: str | None, other: str | None) -> str | None:
    if key is None or other is None:
        return f"only the {'second' if key is None else 'first'} model was scored on it"
    if key != other:
        return (
            f"the two were not asked the same: documents, template, examples or settings differ "
            f"(comparable_key {key[:12]} and {other[:12]})"
        )
    return None


def _right(items: SubjectItems, task: str, metric: str) -> list[bool]:
    if task == "answer_choice":
        return [item.is_right for item in items.answer_choice]
    for benchmark in items.benchmarks:
        if benchmark.task == task:
            return [answer.correct[metric] for answer in benchmark.answers]
    raise ValueError(f"the items of {items.subject!r} lack {task}")
