"""Evaluations: what was measured on a version, item by item, and whether two of them differ."""

from dataclasses import asdict
from typing import Literal, Self

from bitsmith_core.bundle import ChoiceScores, Environment, Score, SubjectItems
from bitsmith_core.registry.compare import Compared, Verdict
from bitsmith_core.registry.eval_rows import Found
from pydantic import BaseModel, Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix


class EvalScore(Score):
    is_headline: bool = Field(description="whether lists of models show it: the newest of the version and task")


class Eval(Listed):
    """One evaluation: the job's own of what it made, or a later one by a job of the method `evaluate`."""

    id: str = Field(examples=["eval-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["eval"] = "eval"
    model: str = Field(examples=["name-qsft"])
    version: int
    subject: str = Field(description="which of the scored models the version itself is")
    job_id: str
    engine: str
    environment: Environment
    has_items: bool = Field(description="whether single answers can be looked at and compared")
    created_at: UnixSeconds
    results: list[EvalScore]

    @classmethod
    def of(cls, found: Found) -> Self:
        row = found.row
        return cls(
            id=row.id,
            model=found.model,
            version=found.number,
            subject=found.subject,
            job_id=row.job_id,
            engine=row.engine,
            environment=Environment.model_validate(row.environment),
            has_items=row.items_key is not None,
            created_at=unix(row.created_at),
            results=[
                EvalScore(**{name: getattr(result, name) for name in EvalScore.model_fields})
                for result in found.results
            ],
        )


class EvalList(Page[Eval]):
    pass


class EvalItem(Listed):
    """One item of a task. Equal ids of evaluations with equal comparable keys are the same item."""

    id: str = Field(description="its position in the task, from 0", examples=["0"])
    object: Literal["eval.item"] = "eval.item"
    nll: float | None = Field(default=None, description="of answer_perplexity: nats, summed over its tokens")
    tokens: int | None = None
    task: str | None = Field(default=None, description="of a benchmark: lm_eval's own name, such as mmlu_anatomy")
    doc: int | None = Field(default=None, description="of a benchmark: the document's position in the pack")
    correct: dict[str, bool] | None = Field(default=None, description="whether it was answered rightly, by metric")
    scores: list[float] | None = Field(default=None, description="of each answer that could be chosen")


class EvalItemList(Page[EvalItem]):
    pass


class TaskComparison(BaseModel):
    task: str
    metric: str
    unit: str = Field(description="of difference, stderr, low and high", examples=["share of right answers"])
    higher_is_better: bool
    a: float | None = Field(description="its score; null if it was not scored on the task")
    b: float | None
    a_stderr: float | None
    b_stderr: float | None
    difference: float | None = Field(description="a minus b, paired; null where the two are not comparable")
    stderr: float | None
    low: float | None = Field(description="of the difference's interval, at the asked confidence")
    high: float | None
    p_value: float | None = Field(
        description="two-sided: McNemar's exact test for right answers, Student's t for a loss"
    )
    n: int | None = Field(description="items both were asked")
    significant: bool
    verdict: Verdict = Field(description="of a")
    reason: str | None = Field(description="why the two are not comparable")

    @classmethod
    def of(cls, found: Compared) -> Self:
        return cls(**asdict(found))


class Comparison(BaseModel):
    """Two versions, from the items that both were asked."""

    object: Literal["eval.comparison"] = "eval.comparison"
    a: str = Field(examples=["name-qsft@2"])
    b: str = Field(examples=["name-qsft@1"])
    confidence: float
    tasks: list[TaskComparison]


def items_of(items: SubjectItems, task: str) -> list[EvalItem]:
    """Every item of a task, in its order; none if it was not asked."""
    if task == "answer_perplexity":
        return [EvalItem(id=str(n), nll=x.nll, tokens=x.tokens) for n, x in enumerate(items.answer_perplexity)]
    if task == "answer_choice":
        return [_choice(position, item) for position, item in enumerate(items.answer_choice)]
    for benchmark in items.benchmarks:
        if benchmark.task == task:
            return [
                EvalItem(id=str(n), task=x.task, doc=x.doc, correct=x.correct, scores=x.scores)
                for n, x in enumerate(benchmark.answers)
            ]
    return []


def _choice(position: int, item: ChoiceScores) -> EvalItem:
    return EvalItem(id=str(position), correct={"accuracy": item.is_right}, scores=item.scores)
