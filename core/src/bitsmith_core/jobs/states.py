"""The states of a job and who may follow whom, as data."""

from enum import StrEnum

from bitsmith_core.errors import IllegalTransition
from bitsmith_core.ids import JobId


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    # to QUEUED: the attempt ended without an answer and the budget allows another
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)


class DesiredState(StrEnum):
    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


def check_transition(job_id: JobId, current: JobStatus, wanted: JobStatus) -> None:
    """Raises IllegalTransition."""
    if wanted not in TRANSITIONS[current]:
        raise IllegalTransition(job_id, current, wanted)
