"""Every SQL statement about jobs that is not a lease, the outbox or a worker's report."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Attempt, Checkpoint, File, Job, JobEvent
from bitsmith_core.ids import FileId, JobId, new_checkpoint_id
from bitsmith_core.jobs.leases import device_seconds
from bitsmith_core.jobs.states import JobStatus


def get(tx: Tx, job_id: JobId) -> Job | None:
    return tx.get(Job, job_id)


def locked(tx: Tx, job_id: JobId) -> Job | None:
    """The job, held against every other writer until the transaction ends."""
    query = select(Job).where(Job.id == job_id).with_for_update()
    return tx.scalar(query.execution_options(populate_existing=True))  # not what this session saw before the lock


def oldest_wait_seconds(tx: Tx) -> float:
    """Age of the oldest queued job, 0 without one."""
    query = select(func.extract("epoch", func.now() - func.min(Job.created_at))).where(Job.status == JobStatus.QUEUED)
    return float(tx.scalar(query) or 0)


def file(tx: Tx, file_id: FileId) -> File | None:
    """The file, held against deletion until the transaction ends: files.delete waits, and then sees the job."""
    return tx.get(File, file_id, with_for_update={"read": True, "key_share": True})


def add_event(tx: Tx, job: Job, *, type_: str, message: str, data: dict[str, Any], level: str = "info") -> None:
    """Append to the job's history. The caller holds the job's row, so numbers have no gaps and no doubles."""
    job.last_seq += 1
    tx.add(JobEvent(job_id=job.id, seq=job.last_seq, type=type_, level=level, message=message, data=data))


def events_after(tx: Tx, job_id: JobId, *, seq: int, limit: int) -> list[JobEvent]:
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > seq).order_by(JobEvent.seq).limit(limit)
    return list(tx.scalars(query))


def events_before(tx: Tx, job_id: JobId, *, seq: int | None, limit: int) -> list[JobEvent]:
    query = select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq.desc()).limit(limit)
    if seq is not None:
        query = query.where(JobEvent.seq < seq)
    return list(tx.scalars(query))


def attempts(tx: Tx, job_id: JobId) -> list[Attempt]:
    return list(tx.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)))


def attempt(tx: Tx, job_id: JobId, number: int) -> Attempt:
    return tx.get_one(Attempt, (job_id, number))


def end_attempt(
    tx: Tx,
    job: Job,
    *,
    outcome: str,
    code: str | None = None,
    message: str | None = None,
    exit_code: int | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """The job still has its lease: the attempt is charged until now, or until the lease ran out."""
    until = func.least(func.now(), job.lease_expires_at)
    tx.execute(
        update(Attempt)
        .where(Attempt.job_id == job.id, Attempt.number == job.attempt_no)
        .values(
            ended_at=func.now(),
            outcome=outcome,
            reason_code=code,
            reason_message=message,
            exit_code=exit_code,
            evidence=Attempt.evidence.op("||")(cast(dict(evidence or {}), JSONB)),
            gpu_seconds=device_seconds(until),
        )
    )


def put_checkpoint(
    tx: Tx,
    job_id: JobId,
    *,
    stage: str,
    step: int,
    attempt: int,
    prefix: str,
    files: list[str],
    size_bytes: int,
    metrics: Mapping[str, float],
) -> None:
    facts = {
        "attempt": attempt, "prefix": prefix, "files": files, "bytes": size_bytes, "metrics": dict(metrics)
    }  # fmt: skip
    row = insert(Checkpoint).values(id=new_checkpoint_id(), job_id=job_id, stage=stage, step=step, **facts)
    tx.execute(
        row.on_conflict_do_update(
            index_elements=[Checkpoint.job_id, Checkpoint.stage, Checkpoint.step],
            set_={**facts, "created_at": func.now()},
        )
    )


def drop_older_checkpoints(tx: Tx, job_id: JobId, *, stage: str, keep: int) -> list[str]:
    """Of those within a stage only the newest stay; answers the prefixes of the others."""
    newest = (
        select(Checkpoint.id)
        .where(Checkpoint.job_id == job_id, Checkpoint.stage == stage, Checkpoint.step > 0)
        .order_by(Checkpoint.created_at.desc(), Checkpoint.step.desc())
        .limit(keep)
    )
    older = (
        delete(Checkpoint)
        .where(
            Checkpoint.job_id == job_id, Checkpoint.stage == stage, Checkpoint.step > 0, Checkpoint.id.not_in(newest)
        )
        .returning(Checkpoint.prefix)
    )
    return list(tx.scalars(older))


def checkpoints(tx: Tx, job_id: JobId) -> list[Checkpoint]:
    """In the order in which they were made."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id)
    return list(tx.scalars(query.order_by(Checkpoint.created_at, Checkpoint.step)))


def offer_again(tx: Tx, job_id: JobId) -> None:
    """The message for a waiting job came to a worker that may not take it: it counts as lost at once.

    As if it had been sent long ago; not as if there had been none, for a start is paid for once.
    """
    waiting = update(Job).where(Job.id == job_id, Job.status == JobStatus.QUEUED, Job.offered_at.is_not(None))
    tx.execute(waiting.values(offered_at=func.to_timestamp(0)).execution_options(synchronize_session=False))


def held_by(tx: Tx, worker: str) -> Job | None:
    """The running job whose lease that worker has, its row held; None also while somebody else holds the row."""
    query = select(Job).where(Job.status == JobStatus.RUNNING, Job.lease_worker == worker)
    return tx.scalar(query.with_for_update(skip_locked=True))


def lapsed(tx: Tx, *, limit: int) -> list[Job]:
    """Running jobs whose lease ran out."""
    query = (
        select(Job)
        .where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < func.now())
        .order_by(Job.lease_expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(tx.scalars(query))
