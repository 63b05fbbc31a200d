"""Evaluations as records: each job's own, and those that later jobs make of versions that are there already."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from bitsmith_core.bundle import EVALS, Manifest, Score, StoredFile, Subject
from bitsmith_core.db import Tx
from bitsmith_core.db.models import Eval, EvalResult
from bitsmith_core.errors import Invalid, NotFound, Problem
from bitsmith_core.ids import EvalId, JobId, ProjectId, new_eval_id
from bitsmith_core.registry import blobs, eval_rows, repository
from bitsmith_core.registry.compare import Measured, Pair, pairs_of
from bitsmith_core.registry.eval_rows import Found, Named

_REFERENCE = re.compile(r"(?P<model>[\w.-]{1,200})(@(?P<ref>[\w.-]{1,200}))?(:(?P<subject>[a-z]+))?", re.ASCII)
MERGED = "bf16/"  # where a bundle without codes has its weights
SUBJECTS: tuple[Subject, ...] = get_args(Subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A version as one side of a comparison, or what it came from."""

    name: str  # name@1, or name@1:float
    measured: tuple[Measured, ...]  # newest evaluation first


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What is fetched to score a version again."""

    manifest: Manifest
    files: tuple[StoredFile, ...]


def get(tx: Tx, eval_id: EvalId, *, project: ProjectId) -> Found:
    found = eval_rows.find(tx, eval_id, project=project)
    if found is None:
        raise NotFound(f"there is no evaluation {eval_id}")
    return found


def page(
    tx: Tx,
    *,
    project: ProjectId,
    limit: int,
    model: str | None = None,
    number: int | None = None,
    task: str | None = None,
    after: EvalId | None = None,
) -> list[Found]:
    """Newest first."""
    return eval_rows.page(tx, project=project, limit=limit, model=model, number=number, task=task, after=after)


def resolve(tx: Tx, reference: str, *, project: ProjectId, is_own: bool = False) -> Named:
    """The version that name@3, name@alias or name (its newest) means now.

    Args:
        is_own: of a model of the project itself, for whoever adds to it.

    Raises:
        NotFound: there is none.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None or match["subject"]:
        raise NotFound(f"{reference!r} names no version; write name@3, name@alias, or name for its newest")
    which = match["ref"]
    is_number = which is not None and re.fullmatch("[1-9][0-9]{0,8}", which) is not None
    found = eval_rows.version(
        tx,
        match["model"],
        number=int(which) if is_number else None,
        alias=None if is_number else which,
        project=project,
        is_own=is_own,
    )
    if found is None:
        raise NotFound(f"there is no version {reference!r} in the registry" + " of this project" * is_own)
    return found


def bundle(tx: Tx, reference: str, *, project: ProjectId) -> Bundle:
    """A version's manifest, and those of its files that a model is loaded from.

    Raises:
        NotFound: there is no such version in this project.
    """
    named = resolve(tx, reference, project=project, is_own=True)
    found, files = eval_rows.stored(tx, named.id)
    manifest = Manifest.model_validate(found)
    is_merged = manifest.quantization is None
    wanted = [f for f in files if (f.path.startswith(MERGED) if is_merged else "/" not in f.path and f.path != EVALS)]
    return Bundle(manifest=manifest, files=tuple(wanted))


def side(tx: Tx, reference: str, *, project: ProjectId) -> Side:
    """What name@3 or name@3:float was scored on.

    Raises:
        NotFound: there is no such version.
        Invalid: there is no such subject.
    """
    version, _, subject = reference.partition(":")
    if subject and subject not in SUBJECTS:
        detail = f"{subject!r} is no subject; a version is scored as one of {', '.join(SUBJECTS)}"
        raise Invalid(detail, [Problem(pointer=reference, code="unknown_subject", detail=detail)])
    return side_of(tx, resolve(tx, version, project=project), subject or None)


def side_of(tx: Tx, version: Named, subject: str | None = None) -> Side:
    """
    Args:
        subject: what the version came from; None: the version itself.
    """
    name = version.name if subject is None else f"{version.name}:{subject}"
    rows = eval_rows.scores_of(tx, version.id, subject or version.subject)
    return Side(name=name, measured=tuple(_measured(name, result, row) for result, row in rows))


def pairs(a: Side, b: Side) -> list[Pair]:
    """What can be compared of the two, and what cannot."""
    return pairs_of(a.measured, b.measured, a_name=a.name, b_name=b.name)


def of_jobs(tx: Tx, job_ids: Sequence[JobId]) -> dict[JobId, EvalId]:
    """What each job published, by itself or with a version; jobs without an evaluation are left out."""
    return eval_rows.ids_of_jobs(tx, job_ids)


def publish(tx: Tx, *, project: ProjectId, version: str, job_id: JobId, manifest: Manifest) -> Eval:
    """A finished job's evaluation of a version that is there already.

    Its files are held and complete in the store before this is called, in the transaction that finishes the job, as
    with `registry.publish`. Idempotent: a job that has published already gets its evaluation again.

    Raises:
        NotFound: the version was deleted meanwhile.
        FilesGone: the files are not held any more.
    """
    published = eval_rows.of_job(tx, job_id)
    if published is not None:
        return published
    repository.lock_name(tx, version.partition("@")[0], project=project)  # against a deletion, and another evaluation
    named = resolve(tx, version, project=project, is_own=True)
    keys = blobs.claim(tx, manifest.files)
    return record(tx, named.id, named.subject, job_id=job_id, manifest=manifest, items_key=keys.get(EVALS))


def record(tx: Tx, version_id: int, subject: str, *, job_id: JobId, manifest: Manifest, items_key: str | None) -> Eval:
    """Write down what was measured; lists show the first metric of each task of it from now on."""
    row = Eval(
        id=new_eval_id(),
        version_id=version_id,
        job_id=job_id,
        engine=manifest.environment.engine,
        environment=manifest.environment.model_dump(mode="json"),
        items_key=items_key,
    )
    eval_rows.add(tx, row, manifest.scores, headlines=headlines(manifest.scores, subject))
    return row


def headlines(scores: list[Score], subject: str) -> set[int]:
    """Positions of the first metric of each task, of the version itself. Pure."""
    first: dict[str, int] = {}
    for position, score in enumerate(scores):
        if score.subject == subject:
            first.setdefault(score.task, position)
    return set(first.values())


def _measured(name: str, result: EvalResult, row: Eval) -> Measured:
    subject = next(known for known in SUBJECTS if known == result.subject)
    return Measured(
        name=name,
        subject=subject,
        task=result.task,
        metric=result.metric,
        value=result.value,
        stderr=result.stderr,
        n=result.n,
        higher_is_better=result.higher_is_better,
        comparable_key=result.comparable_key,
        eval_id=row.id,
        items_key=row.items_key,
    )
