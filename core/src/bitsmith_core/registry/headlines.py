"""The score in each task that lists show of a version, beside what its own float base scored on the same."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select

from bitsmith_core.db import Tx
from bitsmith_core.db.models import EvalResult

FLOAT = "float"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A score as it is stored, with what says whether two may be compared."""

    version_id: int
    is_headline: bool
    subject: str
    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    n_unit: str
    higher_is_better: bool
    comparable_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    score: Measured
    base: Measured | None  # of the float base; None: it was not scored on the very same

    @property
    def difference(self) -> float | None:
        return None if self.base is None else self.score.value - self.base.value


_COLUMNS = [getattr(EvalResult, name) for name in Measured.__dataclass_fields__]


def headlines(tx: Tx, versions: Sequence[int]) -> dict[int, list[Headline]]:
    """By version, in the order in which they were recorded."""
    wanted = or_(EvalResult.is_headline, EvalResult.subject == FLOAT)
    query = select(*_COLUMNS).where(EvalResult.version_id.in_(versions), wanted).order_by(EvalResult.id)
    return paired(Measured(**row._mapping) for row in tx.execute(query))


def paired(measured: Iterable[Measured]) -> dict[int, list[Headline]]:
    """Of several scores of the base under one key the last counts. Pure."""
    scores: list[Measured] = []
    bases: dict[tuple[int, str, str, str], Measured] = {}
    for one in measured:
        if one.subject == FLOAT:
            bases[_what(one)] = one
        if one.is_headline:
            scores.append(one)
    found: dict[int, list[Headline]] = {}
    for score in scores:
        base = bases.get(_what(score)) if score.subject != FLOAT else None
        found.setdefault(score.version_id, []).append(Headline(score=score, base=base))
    return found


def _what(one: Measured) -> tuple[int, str, str, str]:
    return one.version_id, one.task, one.metric, one.comparable_key
