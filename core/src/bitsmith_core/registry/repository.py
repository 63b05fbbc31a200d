"""Every SQL statement about models and their versions."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, delete, func, select, text, update
from sqlalchemy.orm import selectinload

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Eval, EvalResult, Job, Model, Version, VersionFile
from bitsmith_core.errors import Conflict
from bitsmith_core.ids import FileId, JobId, ProjectId, new_model_id

RESERVED = frozenset({"best", "facets"})
"""Words that stand where the API's addresses have a model's name."""


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


def numbers(tx: Tx, model: Model) -> list[int]:
    """Of its versions."""
    return list(tx.scalars(select(Version.number).where(Version.model_id == model.id)))


def remove(tx: Tx, model: Model, numbers: Sequence[int]) -> None:
    """These versions with their scores; the newest of those that stay is the model's newest then."""
    gone = select(Version.id).where(Version.model_id == model.id, Version.number.in_(numbers))
    for table in (EvalResult, Eval, VersionFile):
        tx.execute(delete(table).where(table.version_id.in_(gone)).execution_options(synchronize_session=False))
    tx.execute(delete(Version).where(Version.id.in_(gone)).execution_options(synchronize_session=False))
    last = select(func.max(Version.number)).where(Version.model_id == model.id).scalar_subquery()
    tx.execute(update(Version).where(Version.model_id == model.id, Version.number == last).values(is_newest=True))


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

    Raises:
        Conflict: the name is one of an address of the API.
    """
    if name in RESERVED:
        raise Conflict(f"a model cannot be called {name!r}: GET /v1/models/{name} is something else")
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
