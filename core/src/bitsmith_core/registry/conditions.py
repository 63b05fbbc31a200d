"""A filter as SQL conditions on a model, a version and its headline scores, by the facet each belongs to."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVarTuple

from sqlalchemy import ColumnElement, Select, String, and_, cast, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, aliased

from bitsmith_core.db.models import EvalResult, Model, Version
from bitsmith_core.registry.filters import SCORE, Range, VersionFilter, subject_of

Columns = TypeVarTuple("Columns")

Scores = Mapping[str, type[EvalResult]]
"""The headline scores that a query joins, by task."""


def scores_of(tasks: Iterable[str]) -> Scores:
    return {task: aliased(EvalResult) for task in dict.fromkeys(tasks)}


def join_scores(query: Select[*Columns], scores: Scores) -> Select[*Columns]:
    """Each row of the query, with the version's headline score in each task if it has one."""
    for task, score in scores.items():
        is_its = and_(score.version_id == Version.id, score.task == task, score.is_headline)
        query = query.outerjoin(score, is_its)
    return query


def conditions(wanted: VersionFilter, scores: Scores) -> dict[str, ColumnElement[bool]]:
    """Of a query that joins Model, Version and `scores`, which has every task that is filtered by."""
    found: dict[str, ColumnElement[bool]] = {}
    if wanted.text:
        found["q"] = _holds(wanted.text)
    choices: dict[str, tuple[InstrumentedAttribute[Any], Iterable[str]]] = {
        "base_model": (Model.base_model, wanted.base_models),
        "scheme": (Version.scheme, wanted.schemes),
        "method": (Version.subject, map(subject_of, wanted.methods)),
        "task": (Model.task, wanted.tasks),
        "licence": (Model.licence, wanted.licences),
        "dataset": (Version.training_file, wanted.datasets),
        "job": (Version.job_id, wanted.jobs),
    }
    for facet, (column, values) in choices.items():
        if chosen := list(values):
            found[facet] = column.in_(chosen)
    if wanted.tags:
        found["tag"] = Model.tags.contains(list(wanted.tags))
    ranges: dict[str, tuple[InstrumentedAttribute[Any], Range]] = {
        "bpw": (Version.bpw_effective, wanted.bpw),
        "size_bytes": (Version.weights_bytes, wanted.size_bytes),
        **{f"{SCORE}{task}": (scores[task].value, range_) for task, range_ in wanted.scores.items()},
    }
    for facet, (column, range_) in ranges.items():
        if not range_.is_open:
            found[facet] = _within(column, range_.at_least, range_.at_most)
    if wanted.created_from is not None or wanted.created_until is not None:
        found["created_at"] = _within(Version.created_at, wanted.created_from, wanted.created_until)
    return found


def _holds(text: str) -> ColumnElement[bool]:
    tag = func.jsonb_array_elements_text(Model.tags).table_valued("value")
    in_a_tag = select(tag.c.value).where(cast(tag.c.value, String).icontains(text, autoescape=True)).exists()
    columns = (Model.name, Model.base_model, Model.display_name)
    return or_(*(func.coalesce(column, "").icontains(text, autoescape=True) for column in columns), in_a_tag)


def _within(column: InstrumentedAttribute[Any], at_least: object, at_most: object) -> ColumnElement[bool]:
    ends = []
    if at_least is not None:
        ends.append(column >= at_least)
    if at_most is not None:
        ends.append(column <= at_most)
    return and_(*ends)
