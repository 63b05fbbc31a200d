"""What may go: checkpoints and logs of jobs that are long over, and which of the store's objects a row still names."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select

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
    over = (
        select(Checkpoint.id)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Job.status.in_(TERMINAL), Job.finished_at < func.now() - finished_before)
        .limit(limit)
    )
    return len(tx.scalars(delete(Checkpoint).where(Checkpoint.id.in_(over)).returning(Checkpoint.id)).all())


def forget_logs(tx: Tx, *, finished_before: timedelta, limit: int = 100) -> int:
    """Of so many jobs at a time that have been over for so long; answers how many pieces went."""
    over = (
        select(LogChunk.job_id)
        .join(Job, Job.id == LogChunk.job_id)
        .where(Job.status.in_(TERMINAL), Job.finished_at < func.now() - finished_before)
        .distinct()
        .limit(limit)
    )
    return len(tx.scalars(delete(LogChunk).where(LogChunk.job_id.in_(over)).returning(LogChunk.number)).all())
