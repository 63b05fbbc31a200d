"""Jobs: the one door in (`submit`), the lease that lets one attempt write, the history everybody reads."""

from bitsmith_core.db.models import Attempt, Checkpoint, Job, JobEvent
from bitsmith_core.jobs import chunks, cluster, figures, outbox, queries, retention, workers
from bitsmith_core.jobs.attempting import (
    EngineEnd,
    claim,
    fail,
    finish,
    keep_checkpoint,
    keep_log,
    reap,
    record,
    stopped,
    wish,
)
from bitsmith_core.jobs.fairness import Policy
from bitsmith_core.jobs.leases import Lease, extend
from bitsmith_core.jobs.leases import of_worker as lease_of
from bitsmith_core.jobs.repository import attempts, checkpoints, oldest_wait_seconds
from bitsmith_core.jobs.service import (
    belongs_to,
    cancel,
    change,
    check,
    events_after,
    events_before,
    get,
    offer,
    pause,
    resume,
    sample_usage,
    submit,
)
from bitsmith_core.jobs.states import TERMINAL, TRANSITIONS, DesiredState, JobStatus

__all__ = [
    "TERMINAL",
    "TRANSITIONS",
    "Attempt",
    "Checkpoint",
    "DesiredState",
    "EngineEnd",
    "Job",
    "JobEvent",
    "JobStatus",
    "Lease",
    "Policy",
    "attempts",
    "belongs_to",
    "cancel",
    "change",
    "check",
    "checkpoints",
    "chunks",
    "claim",
    "cluster",
    "events_after",
    "events_before",
    "extend",
    "fail",
    "figures",
    "finish",
    "get",
    "keep_checkpoint",
    "keep_log",
    "lease_of",
    "offer",
    "oldest_wait_seconds",
    "outbox",
    "pause",
    "queries",
    "reap",
    "record",
    "resume",
    "retention",
    "sample_usage",
    "stopped",
    "submit",
    "wish",
    "workers",
]
