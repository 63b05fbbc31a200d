"""What a version must not lose before an alias may point at it. Pure.

    {"prod": {"suite": ["*"], "against": "current", "max_loss": 0.0, "confidence": 0.95, "missing": "refuse"}}

A gate refuses a loss that is both significant and larger than `max_loss`, so that noise passes. Tasks of one gate are
judged together (Holm), so that a suite of many tasks refuses no more often by chance than one task does.

How an alias is moved: `trials.plan` says in a transaction what to compare, `trials.decide` reads the items outside of
any and judges, and a second transaction moves the alias if its revision and the model's are still the same.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from bitsmith_core.registry.compare import CONFIDENCE, Compared
from bitsmith_core.registry.paired import holm
from bitsmith_core.spec.strict import Strict

EVERY_TASK = "*"

Against = Annotated[str, StringConstraints(pattern=r"^(current|base|[A-Za-z0-9_.-]{1,200}@[1-9][0-9]{0,8})$")]
AliasName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class Gate(Strict):
    """What moving an alias asks for."""

    suite: list[Annotated[str, StringConstraints(min_length=1, max_length=100)]] = Field(
        default=[EVERY_TASK],
        min_length=1,
        max_length=64,
        description='tasks as scores name them (piqa, "mmlu 5-shot", answer_choice); "*": all that `against` has',
    )
    against: Against = Field(
        default="current",
        description="current: the version that the alias points at; base: the float model it was made from; name@n",
    )
    max_loss: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="a significant loss up to this passes: a share of right answers, or nats per token of a loss",
    )
    confidence: float = Field(default=CONFIDENCE, ge=0.5, le=0.9999)
    missing: Literal["refuse", "allow"] = Field(
        default="refuse", description="what follows if a task of the suite cannot be compared"
    )


Gates = Annotated[dict[AliasName, Gate], Field(max_length=32)]
"""By alias: what people may PATCH."""

GATES: TypeAdapter[dict[str, Gate]] = TypeAdapter(Gates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One task of the suite."""

    task: str
    metric: str | None
    passed: bool
    verdict: str
    loss: float  # how much worse the candidate is; 0.0: it is not
    unit: str | None
    p_adjusted: float | None  # among the gate's tasks
    reason: str  # in words
    compared: Compared | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a gate found; `as_json` goes into the alias' history and into a refusal."""

    passed: bool
    summary: str
    candidate: str
    against: str | None  # name@n, name@n:float; None: there is nothing yet to be compared with
    gate: Gate
    checks: tuple[Check, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "gate": self.gate.model_dump(mode="json"), "checks": [asdict(c) for c in self.checks]}


def judge(gate: Gate, compared: Sequence[Compared], *, candidate: str, against: str | None) -> Report:
    """Whether the candidate may take the alias.

    Args:
        compared: the candidate (a) with what it is held against (b), one metric a task.
        against: its name; None: the alias is new, or points at the candidate already, and the gate has nothing to do.
    """
    if against is None:
        summary = f"{candidate} passes: there is no other version to be held against"
        return Report(passed=True, summary=summary, candidate=candidate, against=None, gate=gate)
    wanted = _wanted(gate, compared)
    known = {found.task: found for found in compared if found.verdict != "not comparable"}
    tested = [known[task] for task in wanted if task in known]
    p_values = [1.0 if found.p_value is None else found.p_value for found in tested]
    adjusted = {found.task: p for found, p in zip(tested, holm(p_values), strict=True)}
    reasons = {found.task: found.reason for found in compared if found.reason}
    checks = tuple(
        _check(gate, known[task], adjusted[task])
        if task in known
        else _missing(gate, task, reasons.get(task) or f"neither {candidate} nor {against} was scored on it")
        for task in wanted
    )
    if not checks:
        checks = (_missing(gate, EVERY_TASK, f"{against} has no score to be held against"),)
    refused = [check for check in checks if not check.passed]
    return Report(
        passed=not refused, summary=_summary(candidate, against, checks), candidate=candidate, against=against,
        gate=gate, checks=checks,
    )  # fmt: skip


def _wanted(gate: Gate, compared: Sequence[Compared]) -> list[str]:
    """The suite; a "*" stands for every task that what it is held against was scored on."""
    named = [task for task in gate.suite if task != EVERY_TASK]
    every = [found.task for found in compared if found.b is not None] if EVERY_TASK in gate.suite else []
    return list(dict.fromkeys([*named, *every]))


def _check(gate: Gate, found: Compared, p_adjusted: float) -> Check:
    is_lost = found.loss > gate.max_loss and p_adjusted < 1 - gate.confidence
    change = f"{found.difference:+.4g} {found.unit}, p = {p_adjusted:.2g} among the gate's tasks, n = {found.n}"
    if is_lost:
        reason = f"a significant loss: {change}"
    elif found.loss:
        reason = f"a loss within noise or max_loss {gate.max_loss:g}: {change}"
    else:
        reason = f"no loss: {change}"
    return Check(
        task=found.task, metric=found.metric, passed=not is_lost, verdict=found.verdict, loss=found.loss,
        unit=found.unit, p_adjusted=p_adjusted, reason=reason, compared=found,
    )  # fmt: skip


def _missing(gate: Gate, task: str, why: str) -> Check:
    return Check(
        task=task, metric=None, passed=gate.missing == "allow", verdict="not comparable", loss=0.0,
        unit=None, p_adjusted=None, reason=why, compared=None,
    )  # fmt: skip


def _summary(candidate: str, against: str, checks: Sequence[Check]) -> str:
    refused = [check for check in checks if not check.passed]
    if not refused:
        return f"{candidate} passes: no significant loss against {against} on {len(checks)} tasks"
    told = "; ".join(f"{check.task}: {check.reason}" for check in refused[:3])
    more = f"; and {len(refused) - 3} more" * (len(refused) > 3)
    return f"{candidate} is refused against {against}: {told}{more}"
