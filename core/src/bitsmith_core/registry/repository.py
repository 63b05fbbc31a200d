"""Every SQL statement about models and their versions."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, delete, exists, func, select, text, update
from sqlalchemy.orm import aliased, selectinload

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Eval, EvalResult, Job, Model, Version, VersionFile
from bitsmith_core.ids import FileId, JobId, ProjectId, new_model_id


def named(tx: Tx, name: str, *, project: ProjectId) -> Model | None:
    """The model with its versions (newest first) and their scores."""
    return tx.scalar(
        select(Model)
        .where(Model.project_id == project, Model.name == name, Model.versions.any(Version.is_newest))
        .options(
            selectinload(Model.versions).selectinload(Version.scores),
            selectinload(Model.versions).selectinload(Version.files),
        )
    )


def numbered(tx: Tx, name: str, number: int, *, project: ProjectId) -> Version | None:
    """One version with its scores."""
    query = select(Version).join(Version.model).options(selectinload(Version.scores), selectinload(Version.files))
    return tx.scalar(query.where(Model.project_id == project, Model.name == name, Version.number == number))


def page(tx: Tx, *, project: ProjectId, limit: int, after: str | None) -> list[Model]:
    """By name; the cursor is the last name seen."""
    versions = selectinload(Model.versions)
    query = select(Model).options(versions.selectinload(Version.scores), versions.defer(Version.manifest))
    query = query.where(Model.project_id == project).order_by(Model.name).limit(limit)
    if after is not None:
        query = query.where(Model.name > after)
    return list(tx.scalars(query))


def version_of_job(tx: Tx, job_id: JobId) -> Version | None:
    return tx.scalar(select(Version).where(Version.job_id == job_id).options(selectinload(Version.model)))


def outcomes(tx: Tx, job_ids: Sequence[JobId]) -> list[tuple[JobId, str, int, int | None]]:
    """(job, name, number, tokens with a loss) of what these jobs published; the manifests stay where they are."""
    tokens = Version.manifest["training"]["tokens"].astext.cast(BigInteger)
    query = select(Version.job_id, Model.name, Version.number, tokens).join(Version.model)
    return list(tx.execute(query.where(Version.job_id.in_(job_ids))))


def newest_of_base(tx: Tx, base_model: str, *, project: ProjectId) -> Version | None:
    """The newest quantized version of any model on this base."""
    query = select(Version).join(Version.model)
    query = query.where(Model.project_id == project, Model.base_model == base_model, Version.bpw_codes.is_not(None))
    return tx.scalar(query.order_by(Version.id.desc()).limit(1))


def remove(tx: Tx, versions: Sequence[Version]) -> None:
    """With their scores."""
    ids = [version.id for version in versions]
    for table in (EvalResult, Eval, VersionFile):
        tx.execute(delete(table).where(table.version_id.in_(ids)))
    tx.execute(delete(Version).where(Version.id.in_(ids)))
    models = {version.model_id for version in versions}
    later = aliased(Version)
    is_last = ~exists().where(later.model_id == Version.model_id, later.number > Version.number)
    tx.execute(update(Version).where(Version.model_id.in_(models), is_last).values(is_newest=True))


def remove_model(tx: Tx, model: Model) -> None:
    """A model that has no version any more: what people wrote about it goes, its row keeps the numbers."""
    columns = (Model.display_name, Model.licence, Model.card)
    defaults = {"task": "text-generation", "visibility": "project", "tags": [], "gates": {}}
    gone = {column.key: None for column in columns} | defaults
    tx.execute(update(Model).where(Model.id == model.id).values(**gone, revision=Model.revision + 1))


def lock_name(tx: Tx, name: str, *, project: ProjectId) -> None:
    """Until the transaction ends nobody else publishes under the name, or deletes it."""
    tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))"), {"name": f"{project}/{name}"})


def get_or_make(tx: Tx, *, project: ProjectId, name: str, base_model: str) -> Model:
    """The model of that name, its row locked so that two publishers cannot take the same version number.

    One that was deleted begins anew, but for its numbers.
    """
    lock_name(tx, name, project=project)
    model = tx.scalar(select(Model).where(Model.project_id == project, Model.name == name))
    if model is None:
        model = Model(id=new_model_id(), project_id=project, name=name, base_model=base_model)
        tx.add(model)
        tx.flush()
    elif tx.scalar(select(func.count()).where(Version.model_id == model.id, Version.is_newest)) == 0:
        model.base_model, model.created_at = base_model, func.now()
        tx.flush()
    return model


def retire_newest(tx: Tx, model: Model) -> int:
    """The last number that was given to a version of the model, which is the newest no more; the next one is taken.

    A deleted version's number is never given again: a name and a number are one set of bytes, for ever.
    """
    tx.execute(update(Version).where(Version.model_id == model.id, Version.is_newest).values(is_newest=False))
    taken = update(Model).where(Model.id == model.id).values(last_number=Model.last_number + 1)
    return tx.scalars(taken.returning(Model.last_number)).one() - 1


def training_file(tx: Tx, job_id: JobId) -> FileId | None:
    return tx.scalar(select(Job.training_file).where(Job.id == job_id))


def count(tx: Tx) -> int:
    return tx.scalar(select(func.count()).select_from(Version)) or 0
