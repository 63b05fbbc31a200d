"""Which versions may go by themselves: old ones that nobody has asked for."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import aliased

from bitsmith_core.db import Tx
from bitsmith_core.db.models import OPEN_STATUSES, Alias, AliasMove, Eval, Job, Judgement, Model, Version
from bitsmith_core.ids import ProjectId
from bitsmith_core.registry import removal, repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """A version that could go."""

    project: ProjectId
    model: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.model}@{self.number}"


def old(tx: Tx, *, keep: int, limit: int = 1000) -> list[Old]:
    """Versions behind the newest `keep` of their model that nobody has asked for, oldest first.

    Asked for is a version that an alias points at, that a gate has judged, that a judgement compared, or that a job of
    its own has evaluated or is to evaluate.
    """
    query = select(Model.project_id, Model.name, Version.number).join(Version.model)
    query = query.where(_is_behind(keep), ~_is_asked_for()).order_by(Version.id).limit(limit)
    return [Old(project=project, model=name, number=number) for project, name, number in tx.execute(query)]


def forget(tx: Tx, version: Old, *, keep: int) -> bool:
    """Delete the version, unless somebody has asked for it meanwhile, or it is gone. Answers whether it was."""
    repository.lock_name(tx, version.model, project=version.project)
    is_it = and_(Model.project_id == version.project, Model.name == version.model, Version.number == version.number)
    # Whoever points an alias at it, or records an evaluation of it, waits from here on or has been waited for.
    tx.execute(select(Version.id).join(Version.model).where(is_it).with_for_update())
    still = select(Version.id).join(Version.model).where(is_it, _is_behind(keep), ~_is_asked_for())
    if tx.scalar(still) is None:
        return False
    removal.delete(tx, version.model, version.number, project=version.project)
    return True


def _is_behind(keep: int) -> ColumnElement[bool]:
    newer = aliased(Version)
    count = select(func.count()).where(newer.model_id == Version.model_id, newer.number > Version.number)
    return count.correlate(Version).scalar_subquery() >= keep


def _is_asked_for() -> ColumnElement[bool]:
    name = func.concat(Model.name, "@", Version.number)
    is_named = or_(AliasMove.from_number == Version.number, AliasMove.to_number == Version.number)
    return or_(
        exists().where(Alias.model_id == Version.model_id, Alias.number == Version.number),
        exists().where(AliasMove.model_id == Version.model_id, AliasMove.gate.is_not(None), is_named),
        exists().where(Eval.version_id == Version.id, Eval.job_id != Version.job_id),
        exists().where(Judgement.contestants.contains(func.jsonb_build_array(name))),
        exists().where(Job.status.in_(OPEN_STATUSES), Job.spec["method"]["evaluate"]["version"].astext == name),
    )
