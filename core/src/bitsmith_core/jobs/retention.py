"""What may go: checkpoints and logs of jobs that are long over, and which of the store's objects a row still names."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, select, tuple_

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Checkpoint, Job, LogChunk, Version, VersionFile
from bitsmith_core.ids import JobId
from bitsmith_core.jobs.leases import label_of
from bitsmith_core.jobs.states import TERMINAL, JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Referenced:
    """What of a job's objects somebody may still want."""

    prefixes: tuple[str, ...]  # all below them
    keys: frozenset[str]

    def covers(self, key: str) -> bool:
        return key in self.keys or any(key.startswith(f"{prefix}/") for prefix in self.prefixes)


def referenced(tx: Tx, job_id: JobId) -> Referenced:
    """What checkpoints, logs and versions name, and all that the attempt that runs now puts there."""
    prefixes = list(tx.scalars(select(Checkpoint.prefix).where(Checkpoint.job_id == job_id)))
    published = select(VersionFile.object_key).join(Version, Version.id == VersionFile.version_id)
    pieces = select(LogChunk.object_key).where(LogChunk.job_id == job_id)
    running = tx.execute(
        select(Job.attempt_no, Job.lease_token).where(Job.id == job_id, Job.status == JobStatus.RUNNING)
    ).one_or_none()
    if running is not None:
        attempt, token = running
        assert token is not None, "a running job has a lease"
        prefixes.append(f"jobs/{job_id}/{label_of(attempt, token)}")
    return Referenced(
        prefixes=tuple(prefixes),
        keys=frozenset([*tx.scalars(pieces), *tx.scalars(published.where(Version.job_id == job_id))]),
    )


def forget_checkpoints(tx: Tx, *, finished_before: timedelta, limit: int = 1000) -> int:
    """Of jobs that have been over for so long; answers how many. Their objects are the janitor's then."""
    is_old = _is_of_a_job_long_over(Checkpoint, finished_before)
    old = select(Checkpoint.id).join(Job, Job.id == Checkpoint.job_id).where(*is_old)
    some = delete(Checkpoint).where(Checkpoint.id.in_(old.order_by(Checkpoint.created_at).limit(limit)))
    return len(tx.scalars(some.returning(Checkpoint.id)).all())


def forget_logs(tx: Tx, *, finished_before: timedelta, limit: int = 1000) -> int:
    """Of jobs that have been over for so long; answers how many pieces. Their objects are the janitor's then."""
    is_old = _is_of_a_job_long_over(LogChunk, finished_before)
    key = (LogChunk.job_id, LogChunk.attempt, LogChunk.number)
    old = select(*key).join(Job, Job.id == LogChunk.job_id).where(*is_old)
    some = delete(LogChunk).where(tuple_(*key).in_(old.order_by(LogChunk.created_at).limit(limit)))
    return len(tx.scalars(some.returning(LogChunk.number)).all())


def _is_of_a_job_long_over(
    kept: type[Checkpoint] | type[LogChunk], finished_before: timedelta
) -> tuple[ColumnElement[bool], ...]:
    until = func.now() - finished_before
    # What a job left is no younger than its end, and there is an index on its age.
    return kept.created_at < until, Job.status.in_(TERMINAL), Job.finished_at < until
