"""Every SQL statement about evaluations."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, exists, select, update

from bitsmith_core.bundle import Score, StoredFile
from bitsmith_core.db import Tx
from bitsmith_core.db.models import Alias, Eval, EvalResult, Model, Version, VersionFile
from bitsmith_core.ids import EvalId, JobId, ProjectId
from bitsmith_core.registry.scope import readable


class Found(NamedTuple):
    """An evaluation, of which version, and its scores."""

    row: Eval
    model: str
    number: int
    subject: str  # of the version itself
    results: list[EvalResult]

    @property
    def version(self) -> str:
        return f"{self.model}@{self.number}"


class Named(NamedTuple):
    """A version without what fills its page."""

    id: int
    model: str
    number: int
    subject: str
    base_model: str

    @property
    def name(self) -> str:
        return f"{self.model}@{self.number}"


def find(tx: Tx, eval_id: EvalId, *, project: ProjectId) -> Found | None:
    found = tx.execute(_evals(tx, project).where(Eval.id == eval_id)).one_or_none()
    return None if found is None else _with_results(tx, [found])[0]


def page(
    tx: Tx,
    *,
    project: ProjectId,
    limit: int,
    model: str | None,
    number: int | None,
    task: str | None,
    after: EvalId | None,
) -> list[Found]:
    """Newest first; the cursor is an id, which sorts by time."""
    query = _evals(tx, project)
    if model is not None:
        query = query.where(Model.name == model)
    if number is not None:
        query = query.where(Version.number == number)
    if task is not None:
        query = query.where(exists().where(EvalResult.eval_id == Eval.id, EvalResult.task == task))
    if after is not None:
        query = query.where(Eval.id < after)
    return _with_results(tx, list(tx.execute(query.order_by(Eval.id.desc()).limit(limit))))


def version(
    tx: Tx, name: str, *, number: int | None = None, alias: str | None = None, project: ProjectId, is_own: bool = False
) -> Named | None:
    """By number or alias; the newest without either.

    Args:
        is_own: of a model of the project itself, not of one that others share.
    """
    columns = (Version.id, Model.name, Version.number, Version.subject, Model.base_model)
    query = select(*columns).join(Model).where(Model.name == name)
    query = query.where(Model.project_id == project if is_own else readable(tx, project))
    if alias is not None:
        points_here = (Alias.model_id == Version.model_id) & (Alias.number == Version.number)
        query = query.join(Alias, points_here).where(Alias.name == alias)
    else:
        query = query.where(Version.is_newest if number is None else Version.number == number)
    found = tx.execute(query.limit(1)).one_or_none()
    return None if found is None else Named(*found)


def stored(tx: Tx, version_id: int) -> tuple[dict[str, Any], list[StoredFile]]:
    """A version's manifest, and where its files are."""
    manifest = tx.scalars(select(Version.manifest).where(Version.id == version_id)).one()
    rows = tx.scalars(select(VersionFile).where(VersionFile.version_id == version_id).order_by(VersionFile.path))
    files = [StoredFile(path=f.path, bytes=f.bytes, sha256=f.sha256, object_key=f.object_key) for f in rows]
    return manifest, files


def scores_of(tx: Tx, version_id: int, subject: str) -> list[tuple[EvalResult, Eval]]:
    """Every score of one subject of a version, those of newer evaluations first."""
    query = select(EvalResult, Eval).join(Eval, Eval.id == EvalResult.eval_id)
    query = query.where(EvalResult.version_id == version_id, EvalResult.subject == subject)
    return [(result, row) for result, row in tx.execute(query.order_by(Eval.id.desc(), EvalResult.id))]


def of_job(tx: Tx, job_id: JobId) -> Eval | None:
    return tx.scalar(select(Eval).where(Eval.job_id == job_id))


def ids_of_jobs(tx: Tx, job_ids: Sequence[JobId]) -> dict[JobId, EvalId]:
    query = select(Eval.job_id, Eval.id).where(Eval.job_id.in_(job_ids))
    return {row.job_id: row.id for row in tx.execute(query)}


def add(tx: Tx, row: Eval, scores: Iterable[Score], *, headlines: set[int]) -> None:
    """The evaluation with its scores; those at the positions `headlines` take the place of what lists showed."""
    tx.add(row)
    tx.flush()
    rows = [
        EvalResult(
            eval_id=row.id,
            version_id=row.version_id,
            is_headline=position in headlines,
            **score.model_dump(mode="json"),
        )
        for position, score in enumerate(scores)
    ]
    tasks = {result.task for result in rows if result.is_headline}
    older = update(EvalResult).where(EvalResult.version_id == row.version_id, EvalResult.is_headline)
    tx.execute(older.where(EvalResult.task.in_(tasks)).values(is_headline=False))
    tx.add_all(rows)
    tx.flush()


def _evals(tx: Tx, project: ProjectId) -> Select[Eval, str, int, str]:
    query = select(Eval, Model.name, Version.number, Version.subject).join(Version, Version.id == Eval.version_id)
    return query.join(Model, Model.id == Version.model_id).where(readable(tx, project))


def _with_results(tx: Tx, found: Sequence[Row[Eval, str, int, str]]) -> list[Found]:
    results: dict[EvalId, list[EvalResult]] = {row.id: [] for row, *_ in found}
    for result in tx.scalars(select(EvalResult).where(EvalResult.eval_id.in_(results)).order_by(EvalResult.id)):
        results[result.eval_id].append(result)
    return [Found(row, name, number, subject, results[row.id]) for row, name, number, subject in found]
