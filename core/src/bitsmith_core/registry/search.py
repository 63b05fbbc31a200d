"""Models by what their newest version is, in pages; and the smallest version of all that is good enough.

What lists show is read without manifests and cards: of a page's versions their headline scores, of its models their
aliases, in one statement each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.orm import defer

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Alias, EvalResult, Model, Version
from bitsmith_core.errors import NotFound
from bitsmith_core.ids import ModelId, ProjectId
from bitsmith_core.registry.conditions import Columns, Scores, conditions, join_scores, scores_of
from bitsmith_core.registry.filters import Sort, SortKey, VersionFilter
from bitsmith_core.registry.headlines import Headline, headlines
from bitsmith_core.registry.scope import readable

EVERYTHING = VersionFilter()
BY_NAME = Sort()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A model as lists show it."""

    model: Model
    version: Version  # without its manifest
    scores: list[Headline]
    aliases: dict[str, int]  # of the model


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Part of a list, in the list's order."""

    models: list[Listed]
    has_more: bool  # in the direction that was read


def page(
    tx: Tx,
    *,
    project: ProjectId,
    limit: int,
    wanted: VersionFilter = EVERYTHING,
    sort: Sort = BY_NAME,
    after: str | None = None,
    before: str | None = None,
) -> Slice:
    """Cursors are names of models: after one the list goes on, before one it ends.

    By name a page is read off an index. Any other order is that of the project's newest versions, one for each
    model, of which the page's are kept while they pass.

    Raises:
        NotFound: the model at the cursor is gone, so nobody knows where it stood.
    """
    tasks = [*wanted.scores, *([sort.task] if sort.key is SortKey.SCORE else [])]
    scores = scores_of(tasks)
    may_read = readable(tx, project)
    query = join_scores(_newest(may_read), scores).where(*conditions(wanted, scores).values())
    key = _key(sort, scores)
    reads_backwards = before is not None and after is None
    if (cursor := before if reads_backwards else after) is not None:
        at = _value_at(tx, sort, cursor, may_read)
        query = query.where(_beyond(key, sort, cursor, at, is_before=reads_backwards))
    query = query.order_by(*_order(key, sort, is_backwards=reads_backwards)).limit(limit + 1)
    found = list(tx.execute(query))
    rows = found[:limit][::-1] if reads_backwards else found[:limit]
    return Slice(models=_listed(tx, rows), has_more=len(found) > limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """At least this much of the float base's score in a task, as the version's own evaluation measured it."""

    task: str
    share: float


def best(tx: Tx, *, project: ProjectId, wanted: VersionFilter, kept: Kept | None = None) -> Listed:
    """The version of the fewest bytes of weights among all that meet every filter, the newest ones or not.

    Raises:
        NotFound: none does.
    """
    scores = scores_of([*wanted.scores, *([kept.task] if kept else [])])
    query = join_scores(_versions(readable(tx, project)), scores).where(*conditions(wanted, scores).values())
    if kept is not None:
        query = _keeping(query, kept, scores[kept.task])
    row = tx.execute(query.order_by(Version.weights_bytes, Model.name, Version.number.desc()).limit(1)).first()
    if row is None:
        also = f" and keeps {kept.share:.4g} of its float base in {kept.task}" if kept else ""
        raise NotFound(
            f"no version in the registry meets every filter{also}; GET /v1/models/facets tells what there is"
        )
    return _listed(tx, [row])[0]


def _keeping(query: Select[*Columns], kept: Kept, score: type[EvalResult]) -> Select[*Columns]:
    """A perplexity that is 1/share of the base's keeps that share of it."""
    base = scores_of([kept.task])[kept.task]
    is_its_base = and_(
        base.version_id == Version.id,
        base.eval_id == score.eval_id,
        base.subject == "float",
        base.task == kept.task,
        base.metric == score.metric,
        base.comparable_key == score.comparable_key,
    )
    is_enough = or_(
        and_(score.higher_is_better, score.value >= kept.share * base.value),
        and_(~score.higher_is_better, score.value * kept.share <= base.value),
    )
    return query.join(base, is_its_base).where(is_enough)


def _versions(may_read: ColumnElement[bool]) -> Select[Model, Version]:
    query = select(Model, Version).join(Version, Version.model_id == Model.id).where(may_read)
    return query.options(defer(Model.card, raiseload=True), defer(Version.manifest, raiseload=True))


def _newest(may_read: ColumnElement[bool]) -> Select[Model, Version]:
    return _versions(may_read).where(Version.is_newest)


def _key(sort: Sort, scores: Scores) -> ColumnElement[Any]:
    match sort.key:
        case SortKey.NAME:
            return Model.name  # type: ignore[return-value]  # a mapped attribute is a column to SQL
        case SortKey.CREATED_AT:
            return Version.created_at  # type: ignore[return-value]
        case SortKey.SIZE_BYTES:
            return Version.weights_bytes  # type: ignore[return-value]
        case SortKey.BPW:
            return Version.bpw_effective  # type: ignore[return-value]
        case SortKey.SCORE:
            return scores[sort.task].value  # type: ignore[return-value]


def _value_at(tx: Tx, sort: Sort, cursor: str, may_read: ColumnElement[bool]) -> Any:
    """What the model at the cursor is sorted by."""
    if sort.key is SortKey.NAME:
        return cursor
    scores = scores_of([sort.task] if sort.key is SortKey.SCORE else [])
    asked = select(_key(sort, scores)).select_from(Model).join(Version, Version.model_id == Model.id)
    asked = join_scores(asked, scores).where(may_read, Version.is_newest, Model.name == cursor)
    found = tx.execute(asked).first()
    if found is None:
        raise NotFound(f"there is no model {cursor!r} any more to read on from; begin the list anew")
    return found[0]


def _beyond(key: ColumnElement[Any], sort: Sort, cursor: str, at: Any, *, is_before: bool) -> ColumnElement[bool]:
    """What comes after the cursor in the list, or before it."""
    if sort.key is SortKey.NAME:
        return key < cursor if is_before != sort.is_descending else key > cursor
    by_name = Model.name < cursor if is_before else Model.name > cursor
    if at is None:
        return or_(key.is_not(None), by_name) if is_before else and_(key.is_(None), by_name)
    further = key < at if is_before != sort.is_descending else key > at
    missing = [] if is_before else [key.is_(None)]
    return or_(further, and_(key == at, by_name), *missing)


def _order(key: ColumnElement[Any], sort: Sort, *, is_backwards: bool) -> list[ColumnElement[Any]]:
    is_falling = sort.is_descending != is_backwards
    directed = key.desc() if is_falling else key.asc()
    if sort.key is SortKey.NAME:
        return [directed]
    directed = directed.nulls_first() if is_backwards else directed.nulls_last()
    return [directed, Model.name.desc() if is_backwards else Model.name.asc()]


def _listed(tx: Tx, rows: Sequence[tuple[Model, Version]]) -> list[Listed]:
    scores = headlines(tx, [version.id for _, version in rows])
    aliases = aliases_of(tx, [model.id for model, _ in rows])
    return [
        Listed(model=model, version=version, scores=scores.get(version.id, []), aliases=aliases.get(model.id, {}))
        for model, version in rows
    ]


def aliases_of(tx: Tx, models: Sequence[ModelId]) -> dict[ModelId, dict[str, int]]:
    """{alias: number of the version} of each model that has any."""
    query = select(Alias.model_id, Alias.name, Alias.number).where(Alias.model_id.in_(models)).order_by(Alias.name)
    found: dict[ModelId, dict[str, int]] = {}
    for model, name, number in tx.execute(query):
        found.setdefault(model, {})[name] = number
    return found
