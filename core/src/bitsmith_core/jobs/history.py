"""How a job's state changes: the row, the lease and the history in one step. The caller holds the job's row."""

from bitsmith_core import delivery
from bitsmith_core.db import Tx, database_now
from bitsmith_core.db.models import Job
from bitsmith_core.delivery import EventType
from bitsmith_core.jobs import repository
from bitsmith_core.jobs.states import TERMINAL, JobStatus, check_transition


def tell(tx: Tx, job: Job, event: str, message: str, *, level: str = "info", **data: object) -> None:
    repository.add_event(tx, job, type_="message", level=level, message=message, data={"event": event, **data})


def release(job: Job, status: JobStatus) -> None:
    """Give the job another state, and nobody the lease."""
    check_transition(job.id, JobStatus(job.status), status)
    job.status = status
    job.lease_token = job.lease_worker = job.lease_expires_at = job.offered_at = None


def pause(tx: Tx, job: Job) -> None:
    release(job, JobStatus.PAUSED)
    tell(tx, job, "job.paused", "Job paused.")
    delivery.emit(tx, project=job.project_id, type=EventType.JOB_PAUSED, target=job.id)


def end(tx: Tx, job: Job, status: JobStatus, event: str, message: str, *, level: str = "info", **data: str) -> None:
    assert status in TERMINAL
    release(job, status)
    job.finished_at = database_now()
    tell(tx, job, event, message, level=level, **data)
    delivery.emit(tx, project=job.project_id, type=EventType(f"fine_tuning.job.{status}"), target=job.id)
