"""Every SQL statement about models and their versions."""

from collections.abc import Sequence

from sqlalchemy import func, select, text
from sqlalchemy.orm import selectinload

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Model, Version
from bitsmith_core.ids import JobId, ProjectId, new_model_id


def named(tx: Tx, name: str, *, project: ProjectId) -> Model | None:
    """The model with its versions (newest first) and their scores."""
    return tx.scalar(
        select(Model)
        .where(Model.project_id == project, Model.name == name)
        .options(selectinload(Model.versions).selectinload(Version.scores))
    )


def page(tx: Tx, *, project: ProjectId, limit: int, after: str | None) -> list[Model]:
    """By name; the cursor is the last name seen."""
    query = select(Model).options(selectinload(Model.versions).selectinload(Version.scores))
    query = query.where(Model.project_id == project).order_by(Model.name).limit(limit)
    if after is not None:
        query = query.where(Model.name > after)
    return list(tx.scalars(query))


def version_of_job(tx: Tx, job_id: JobId) -> Version | None:
    return tx.scalar(select(Version).where(Version.job_id == job_id).options(selectinload(Version.model)))


def versions_of_jobs(tx: Tx, job_ids: Sequence[JobId]) -> list[Version]:
    return list(tx.scalars(select(Version).where(Version.job_id.in_(job_ids)).options(selectinload(Version.model))))


def get_or_make(tx: Tx, *, project: ProjectId, name: str, base_model: str) -> Model:
    """The model of that name, its row locked so that two publishers cannot take the same version number."""
    tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))"), {"name": f"{project}/{name}"})
    model = tx.scalar(select(Model).where(Model.project_id == project, Model.name == name))
    if model is None:
        model = Model(id=new_model_id(), project_id=project, name=name, base_model=base_model)
        tx.add(model)
        tx.flush()
    return model


def next_number(tx: Tx, model: Model) -> int:
    return (tx.scalar(select(func.max(Version.number)).where(Version.model_id == model.id)) or 0) + 1


def count(tx: Tx) -> int:
    return tx.scalar(select(func.count()).select_from(Version)) or 0
