"""The tables. Touched by repositories only; all else goes through jobs, registry, files, identity and delivery."""

from bitsmith_core.db.models.delivery import AuditEvent, Outbox, Webhook, WebhookDelivery
from bitsmith_core.db.models.files import File, ProjectStorage, Upload, UploadPart
from bitsmith_core.db.models.identity import ApiKey, IdempotencyKey, Project
from bitsmith_core.db.models.jobs import (
    OPEN_STATUSES,
    Attempt,
    Checkpoint,
    ClusterJob,
    Job,
    JobEvent,
    LogChunk,
    MetricChunk,
    Tally,
    Worker,
)
from bitsmith_core.db.models.registry import (
    Alias,
    AliasMove,
    Blob,
    Eval,
    EvalResult,
    Judgement,
    Model,
    Version,
    VersionFile,
)

__all__ = [
    "OPEN_STATUSES",
    "Alias", "AliasMove", "ApiKey", "Attempt", "AuditEvent", "Blob", "Checkpoint", "ClusterJob", "Eval", "EvalResult",
    "File",
    "IdempotencyKey", "Job", "JobEvent", "Judgement", "LogChunk", "MetricChunk", "Model", "Outbox", "Project",
    "ProjectStorage", "Tally", "Upload", "UploadPart", "Version", "VersionFile", "Webhook", "WebhookDelivery", "Worker",
]  # fmt: skip
