"""Jobs: the one door in (`submit`), the lease that lets one attempt write, the history everybody reads."""

from bitsmith_core.db.models import Attempt, Checkpoint, Job, JobEvent
from bitsmith_core.jobs import outbox, workers
from bitsmith_core.jobs.leases import Lease, extend
from bitsmith_core.jobs.repository import attempts, checkpoints, oldest_wait_seconds
from bitsmith_core.jobs.service import (
    belongs_to,
    cancel,
    check,
    claim,
    events_after,
    events_before,
    fail,
    finish,
    get,
    keep_checkpoint,
    offer,
    page,
    reap,
    record,
    status_counts,
    stopped,
    submit,
)
from bitsmith_core.jobs.states import TERMINAL, TRANSITIONS, DesiredState, JobStatus

__all__ = [
    "TERMINAL",
    "TRANSITIONS",
    "Attempt",
    "Checkpoint",
    "DesiredState",
    "Job",
    "JobEvent",
    "JobStatus",
    "Lease",
    "attempts",
    "belongs_to",
    "cancel",
    "check",
    "checkpoints",
    "claim",
    "events_after",
    "events_before",
    "extend",
    "fail",
    "finish",
    "get",
    "keep_checkpoint",
    "offer",
    "oldest_wait_seconds",
    "outbox",
    "page",
    "reap",
    "record",
    "status_counts",
    "stopped",
    "submit",
    "workers",
]
