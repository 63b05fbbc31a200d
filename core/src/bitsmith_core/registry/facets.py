"""What there is to filter models by: counts and ranges, of the newest versions that the other filters leave.

One statement. It looks at each newest version once, notes which filters it fails, and counts it for every facet
whose own filter is the only one it may have failed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    Integer,
    Select,
    String,
    and_,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute

from bitsmith_core.db import Tx
from bitsmith_core.db.models import EvalResult, File, Model, Version
from bitsmith_core.ids import FileId, ProjectId
from bitsmith_core.registry.conditions import conditions, join_scores, scores_of
from bitsmith_core.registry.filters import SCORE, VersionFilter, method_of
from bitsmith_core.registry.scope import readable

MOST_VALUES = 200  # of one facet: the most frequent

VALUES = ("base_model", "scheme", "method", "task", "licence", "dataset")
RANGES = ("bpw", "size_bytes", "created_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    value: str
    count: int
    label: str | None = None  # how people call it, where the value is an id


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpan(Span):
    task: str
    metric: str
    n: int  # models with a score in it
    higher_is_better: bool


@dataclass(slots=True)
class Facets:
    total: int = 0  # models that meet every filter
    values: dict[str, list[Count]] = field(default_factory=dict)  # by facet, the most frequent first
    ranges: dict[str, Span] = field(default_factory=dict)  # by facet; created_at in unix seconds
    scores: dict[str, TaskSpan] = field(default_factory=dict)  # by task


def facets(tx: Tx, *, project: ProjectId, wanted: VersionFilter) -> Facets:
    """Of each facet the counts ignore the facet's own filter, so that people see what else they could choose."""
    browsed, passes = _browsed(wanted, may_read=readable(tx, project))
    parts = [_total(browsed, passes)]
    parts += [_values(browsed, passes, facet, browsed.c[facet]) for facet in VALUES]
    parts.append(_tags(browsed, passes))
    parts += [_range(browsed, passes, facet) for facet in RANGES]
    parts.append(_scores(browsed, passes, wanted))
    found = Facets(values={facet: [] for facet in (*VALUES, "tag")})
    for facet, value, count, least, most, metric, is_higher_better in tx.execute(union_all(*parts)):
        if facet == "total":
            found.total = count
        elif facet == "score":
            found.scores[value] = TaskSpan(
                task=value, metric=metric, n=count, higher_is_better=is_higher_better, least=least, most=most
            )
        elif facet in RANGES:
            if count:
                found.ranges[facet] = Span(least=least, most=most)
        else:
            found.values[facet].append(Count(value=method_of(value) if facet == "method" else value, count=count))
    for facet, counts in found.values.items():
        found.values[facet] = sorted(counts, key=lambda each: (-each.count, each.value))[:MOST_VALUES]
    found.values["dataset"] = _labelled(tx, found.values["dataset"])
    found.scores = dict(sorted(found.scores.items()))
    return found


def _browsed(wanted: VersionFilter, *, may_read: ColumnElement[bool]) -> tuple[CTE, list[str]]:
    """The newest versions, and a column for each filter that says whether it holds; answers the filters' names."""
    scores = scores_of(wanted.scores)
    held = conditions(wanted, scores)
    query = select(
        Version.id,
        Model.base_model,
        Version.scheme,
        Version.subject.label("method"),
        Model.task,
        Model.licence,
        Version.training_file.label("dataset"),
        Model.tags,
        Version.bpw_effective.label("bpw"),
        Version.weights_bytes.label("size_bytes"),
        func.extract("epoch", Version.created_at).label("created_at"),
        *(func.coalesce(condition, False).label(f"passes {facet}") for facet, condition in held.items()),
    ).join(Version, Version.model_id == Model.id)
    query = join_scores(query, scores).where(may_read, Version.is_newest)
    return query.cte("browsed").prefix_with("MATERIALIZED", dialect="postgresql"), list(held)


def _left(browsed: CTE, passes: Iterable[str], *, but: str | None = None) -> ColumnElement[bool]:
    return and_(true(), *(browsed.c[f"passes {facet}"] for facet in passes if facet != but))


def _row(
    facet: str,
    value: ColumnElement[Any] | InstrumentedAttribute[Any],
    count: ColumnElement[int],
    *measures: ColumnElement[Any],
) -> list[ColumnElement[Any]]:
    nothing = [cast(null(), Double), cast(null(), Double), cast(null(), String), cast(null(), Integer)]
    return [literal(facet), cast(value, String), count, *measures, *nothing[len(measures) :]]


def _total(browsed: CTE, passes: list[str]) -> Select[*tuple[Any, ...]]:
    return select(*_row("total", null(), func.count())).select_from(browsed).where(_left(browsed, passes))


def _values(browsed: CTE, passes: list[str], facet: str, value: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    query = select(*_row(facet, value, func.count())).select_from(browsed).group_by(value)
    return query.where(value.is_not(None), _left(browsed, passes, but=facet))


def _tags(browsed: CTE, passes: list[str]) -> Select[*tuple[Any, ...]]:
    tag = func.jsonb_array_elements_text(browsed.c.tags).table_valued("value").render_derived()
    query = select(*_row("tag", tag.c.value, func.count())).select_from(browsed).join(tag, true())
    return query.where(_left(browsed, passes, but="tag")).group_by(tag.c.value)


def _range(browsed: CTE, passes: list[str], facet: str) -> Select[*tuple[Any, ...]]:
    column = browsed.c[facet]
    ends = (cast(func.min(column), Double), cast(func.max(column), Double))
    query = select(*_row(facet, null(), func.count(column), *ends)).select_from(browsed)
    return query.where(_left(browsed, passes, but=facet))


def _scores(browsed: CTE, passes: list[str], wanted: VersionFilter) -> Select[*tuple[Any, ...]]:
    others = [facet for facet in passes if not facet.startswith(SCORE)]
    # A task's own filter is ignored for the rows of that task alone.
    by_task = [
        or_(browsed.c[f"passes {facet}"], EvalResult.task == facet.removeprefix(SCORE))
        for facet in passes
        if facet.startswith(SCORE)
    ]
    ends = (func.min(EvalResult.value), func.max(EvalResult.value))
    told = (func.min(EvalResult.metric), cast(func.bool_and(EvalResult.higher_is_better), Integer))
    query = select(*_row("score", EvalResult.task, func.count(), *ends, *told)).select_from(browsed)
    query = query.join(EvalResult, and_(EvalResult.version_id == browsed.c.id, EvalResult.is_headline))
    return query.where(_left(browsed, others), *by_task).group_by(EvalResult.task)


def _labelled(tx: Tx, datasets: list[Count]) -> list[Count]:
    """With the names of the files that are still there."""
    ids = [FileId(each.value) for each in datasets]
    query = select(File.id, File.filename).where(File.id.in_(ids), File.deleted_at.is_(None))
    names = dict(tx.execute(query).all()) if ids else {}
    return [Count(value=each.value, count=each.count, label=names.get(FileId(each.value))) for each in datasets]
