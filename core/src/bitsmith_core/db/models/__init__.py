"""The tables. Touched by repositories only; all else goes through jobs, registry, files, identity and delivery."""

from bitsmith_core.db.models.delivery import AuditEvent, Outbox, Webhook, WebhookDelivery
from bitsmith_core.db.models.files import File, Upload, UploadPart
from bitsmith_core.db.models.identity import ApiKey, IdempotencyKey, Project
from bitsmith_core.db.models.jobs import Attempt, Checkpoint, Job, JobEvent, LogChunk, MetricChunk, Worker
from bitsmith_core.db.models.registry import EvalResult, Model, Version

__all__ = [
    "ApiKey", "Attempt", "AuditEvent", "Checkpoint", "EvalResult", "File", "IdempotencyKey", "Job", "JobEvent",
    "LogChunk", "MetricChunk", "Model", "Outbox", "Project", "Upload", "UploadPart", "Version", "Webhook",
    "WebhookDelivery", "Worker",
]  # fmt: skip
