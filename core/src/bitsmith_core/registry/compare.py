"""Two versions, task by task, from the items both were asked. Pure: rows and items in, verdicts out.

What was not asked the same is never subtracted: `comparable_key` decides, and the reason is told instead of a number.
A version may have been evaluated several times; the newest two evaluations that asked the same are compared.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bitsmith_core.bundle import AnswerLoss, Evals, Subject, SubjectItems
from bitsmith_core.ids import EvalId
from bitsmith_core.registry.paired import Paired, paired_answers, paired_losses

Verdict = Literal["better", "worse", "no difference", "not comparable"]
CONFIDENCE = 0.95

_LOSSES = {"answer_perplexity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One score of one side, and where its items are."""

    name: str  # of the side, for people: name@1, name@1:float
    subject: Subject
    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool
    comparable_key: str
    eval_id: EvalId
    items_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A task and metric of two sides; a reason instead of what cannot be compared."""

    task: str
    metric: str
    a: Measured | None
    b: Measured | None
    reason: str | None = None

    @property
    def items_keys(self) -> set[str]:
        sides = () if self.reason else (self.a, self.b)
        return {side.items_key for side in sides if side and side.items_key}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """`a` against `b`: every number is a's minus b's, every verdict a's."""

    task: str
    metric: str
    unit: str  # of the difference: share of right answers, nats per token
    higher_is_better: bool
    a: float | None  # scores, in the metric's own unit
    b: float | None
    a_stderr: float | None
    b_stderr: float | None
    difference: float | None
    stderr: float | None
    low: float | None
    high: float | None
    p_value: float | None
    n: int | None  # items
    significant: bool
    verdict: Verdict
    reason: str | None

    @property
    def loss(self) -> float:
        """How much worse a is, in the difference's unit; 0.0: it is not."""
        if self.difference is None:
            return 0.0
        return max(0.0, -self.difference if self.higher_is_better else self.difference)


Read = Callable[[str], Evals | None]
"""The items of an evaluation by their key; None: they are gone."""


def pairs_of(a: Sequence[Measured], b: Sequence[Measured], *, a_name: str, b_name: str) -> list[Pair]:
    """What to compare, in the order in which the tasks come.

    Args:
        a, b: every score of a side, those of newer evaluations first.
    """
    tasks = dict.fromkeys((row.task, row.metric) for row in [*a, *b])
    return [_pair(task, metric, _of(a, task, metric), _of(b, task, metric), a_name, b_name) for task, metric in tasks]


def headlines(pairs: Iterable[Pair]) -> list[Pair]:
    """Each task's first metric only."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.task, pair)
    return list(first.values())


def compare(pairs: Sequence[Pair], read: Read, *, confidence: float = CONFIDENCE) -> list[Compared]:
    return [_compared(pair, read, confidence) for pair in pairs]


def unit_of(task: str) -> str:
    return "nats per token" if task in _LOSSES else "share of right answers"


def _pair(task: str, metric: str, ours: list[Measured], theirs: list[Measured], a_name: str, b_name: str) -> Pair:
    if not ours or not theirs:
        lacking = a_name if theirs else b_name
        reason = f"{lacking} was not scored on it; evaluate it with the same data (bitsmith evals run)"
        return Pair(task=task, metric=metric, a=next(iter(ours), None), b=next(iter(theirs), None), reason=reason)
    for one in ours:
        for other in theirs:
            if one.comparable_key == other.comparable_key:
                return Pair(task=task, metric=metric, a=one, b=other)
    reason = (
        "the two were not asked the same: documents, template, examples or settings differ "
        f"(comparable_key {ours[0].comparable_key[:12]} and {theirs[0].comparable_key[:12]})"
    )
    return Pair(task=task, metric=metric, a=ours[0], b=theirs[0], reason=reason)


def _of(rows: Sequence[Measured], task: str, metric: str) -> list[Measured]:
    return [row for row in rows if row.task == task and row.metric == metric]


def _compared(pair: Pair, read: Read, confidence: float) -> Compared:
    if pair.reason is not None or pair.a is None or pair.b is None:
        return _refused(pair, pair.reason or "there is nothing to compare")
    sides = []
    for side in (pair.a, pair.b):
        items = _items(side, read)
        if items is None:
            return _refused(pair, f"the items of {side.name} are not kept any more, and without them nothing is paired")
        sides.append(items)
    found = _paired(sides[0], sides[1], confidence)
    if found is None:
        return _refused(pair, "the two evaluations hold different numbers of items under one comparable_key")
    is_significant = found.p_value < 1 - confidence
    is_better = (found.difference > 0) == pair.a.higher_is_better
    verdict: Verdict = "no difference" if not is_significant else "better" if is_better else "worse"
    return Compared(
        task=pair.task,
        metric=pair.metric,
        unit=unit_of(pair.task),
        higher_is_better=pair.a.higher_is_better,
        a=pair.a.value,
        b=pair.b.value,
        a_stderr=pair.a.stderr,
        b_stderr=pair.b.stderr,
        difference=found.difference,
        stderr=found.stderr,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        n=found.n,
        significant=is_significant,
        verdict=verdict,
        reason=None,
    )


def _refused(pair: Pair, reason: str) -> Compared:
    known = pair.a or pair.b
    return Compared(
        task=pair.task,
        metric=pair.metric,
        unit=unit_of(pair.task),
        higher_is_better=known.higher_is_better if known else True,
        a=pair.a.value if pair.a else None,
        b=pair.b.value if pair.b else None,
        a_stderr=pair.a.stderr if pair.a else None,
        b_stderr=pair.b.stderr if pair.b else None,
        difference=None,
        stderr=None,
        low=None,
        high=None,
        p_value=None,
        n=None,
        significant=False,
        verdict="not comparable",
        reason=reason,
    )


def _items(side: Measured, read: Read) -> list[AnswerLoss] | list[bool] | None:
    evals = None if side.items_key is None else read(side.items_key)
    found = next((items for items in evals.items if items.subject == side.subject), None) if evals else None
    return None if found is None else answers_of(found, side.task, side.metric)


def answers_of(items: SubjectItems, task: str, metric: str) -> list[AnswerLoss] | list[bool] | None:
    """One subject's items of a task: losses, or which were right; None: there are none."""
    if task in _LOSSES:
        return items.answer_perplexity or None
    if task == "answer_choice":
        return [item.is_right for item in items.answer_choice] or None
    for benchmark in items.benchmarks:
        if benchmark.task == task and all(metric in answer.correct for answer in benchmark.answers):
            return [answer.correct[metric] for answer in benchmark.answers] or None
    return None


def _paired(a: list[AnswerLoss] | list[bool], b: list[AnswerLoss] | list[bool], confidence: float) -> Paired | None:
    if len(a) != len(b):
        return None
    losses = [item for item in a if isinstance(item, AnswerLoss)]
    others = [item for item in b if isinstance(item, AnswerLoss)]
    if losses and others:
        return paired_losses(losses, others, confidence=confidence)
    right, also = [item is True for item in a], [item is True for item in b]
    return paired_answers(right, also, confidence=confidence)
