"""One model, one version, the versions of a model: found by the names people write."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, exists, select
from sqlalchemy.orm import defer, selectinload

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Alias, Eval, Model, Version
from bitsmith_core.errors import NotFound
from bitsmith_core.ids import ModelId, ProjectId
from bitsmith_core.registry.headlines import Headline, headlines
from bitsmith_core.registry.scope import readable


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Part of a model's versions, newest first."""

    versions: list[Version]  # without their manifests
    scores: dict[int, list[Headline]]  # by id of the version
    has_more: bool  # in the direction that was read


def model(tx: Tx, name: str, *, project: ProjectId) -> Model:
    """
    Raises:
        NotFound: there is none that the project may read.
    """
    found = tx.scalar(_named(select(Model), name).where(readable(tx, project)))
    if found is None:
        raise NotFound(f"there is no model {name!r} in the registry")
    return found


def own_model(tx: Tx, name: str, *, project: ProjectId) -> Model:
    """The project's own, for whoever changes it; locked until the transaction ends.

    Raises:
        NotFound: the project has none.
    """
    query = _named(select(Model), name).where(Model.project_id == project)
    found = tx.scalar(query.with_for_update(of=Model).execution_options(populate_existing=True))
    if found is None:
        raise NotFound(f"there is no model {name!r} in this project")
    return found


def version(tx: Tx, name: str, reference: str | int | None = None, *, project: ProjectId) -> Version:
    """With its manifest, files and scores.

    Args:
        reference: a number, or an alias; None: the newest.

    Raises:
        NotFound: there is no such model or version that the project may read.
    """
    owner = model(tx, name, project=project)
    query = select(Version).where(Version.model_id == owner.id, Version.number == number_of(tx, owner, reference))
    return tx.scalars(query.options(selectinload(Version.scores), selectinload(Version.files))).one()


def number_of(tx: Tx, owner: Model, reference: str | int | None = None) -> int:
    """The number of the version that is meant; it is there.

    Raises:
        NotFound: the model has no such version or alias.
    """
    versions = select(Version.number).where(Version.model_id == owner.id)
    newest = tx.scalars(versions.where(Version.is_newest)).one()
    if reference is None:
        return newest
    if isinstance(reference, int) or reference.isdecimal():
        number = int(reference)
        if number != newest and tx.scalar(versions.where(Version.number == number)) is None:
            raise NotFound(f"model {owner.name!r} has no version {number}; its newest is {newest}")
        return number
    aliased = tx.scalar(select(Alias.number).where(Alias.model_id == owner.id, Alias.name == reference))
    if aliased is None:
        raise NotFound(f"model {owner.name!r} has no alias {reference!r}; its newest version is {newest}")
    return aliased


def versions(tx: Tx, owner: Model, *, limit: int, after: int | None = None, before: int | None = None) -> Slice:
    """Newest first; the cursors are numbers."""
    query = select(Version).where(Version.model_id == owner.id).options(defer(Version.manifest, raiseload=True))
    reads_backwards = before is not None and after is None
    if after is not None:
        query = query.where(Version.number < after)
    elif before is not None:
        query = query.where(Version.number > before)
    query = query.order_by(Version.number if reads_backwards else Version.number.desc()).limit(limit + 1)
    found = list(tx.scalars(query))
    rows = found[:limit][::-1] if reads_backwards else found[:limit]
    return Slice(versions=rows, scores=headlines(tx, [row.id for row in rows]), has_more=len(found) > limit)


def one(tx: Tx, owner: Model, number: int) -> Slice:
    """The version of that number alone."""
    query = select(Version).where(Version.model_id == owner.id, Version.number == number)
    rows = list(tx.scalars(query.options(defer(Version.manifest, raiseload=True))))
    return Slice(versions=rows, scores=headlines(tx, [row.id for row in rows]), has_more=False)


def aliases_at(tx: Tx, model_id: ModelId, number: int) -> list[str]:
    """The aliases that point at this version."""
    query = select(Alias.name).where(Alias.model_id == model_id, Alias.number == number)
    return list(tx.scalars(query.order_by(Alias.name)))


def evals_of(tx: Tx, version_id: int) -> Sequence[Eval]:
    """What was measured on it and when, oldest first."""
    return list(tx.scalars(select(Eval).where(Eval.version_id == version_id).order_by(Eval.id)))


def _named(query: Select[Model], name: str) -> Select[Model]:
    """A model without versions was deleted."""
    is_there = exists().where(Version.model_id == Model.id, Version.is_newest)
    return query.where(Model.name == name, is_there)
