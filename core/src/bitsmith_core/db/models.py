"""The tables. Touched by repositories only; everything else goes through jobs, registry and files."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bitsmith_core.db.base import Base
from bitsmith_core.ids import FileId, JobId, ModelId


class File(Base):
    """An uploaded training or validation file; its bytes are in the object store under its digest."""

    __tablename__ = "files"

    id: Mapped[FileId] = mapped_column(primary_key=True)
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    examples: Mapped[int]  # records in the file
    object_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Job(Base):
    """What was asked, who is on it, how far it is. `spec` never changes; the lease decides who may write the rest."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("status IN ('queued','running','succeeded','failed','cancelled')", name="status"),
        CheckConstraint("desired_state IN ('run','cancel')", name="desired_state"),
        CheckConstraint("(status = 'running') = (lease_token IS NOT NULL)", name="lease_iff_running"),
        Index("ix_jobs_waiting", "created_at", postgresql_where=text("status = 'queued'")),
        Index("ix_jobs_leased", "lease_expires_at", postgresql_where=text("status = 'running'")),
    )

    id: Mapped[JobId] = mapped_column(primary_key=True)
    spec: Mapped[dict[str, Any]]
    spec_sha256: Mapped[str]
    base_model: Mapped[str]
    training_file: Mapped[FileId] = mapped_column(ForeignKey("files.id"))
    validation_file: Mapped[FileId] = mapped_column(ForeignKey("files.id"))
    status: Mapped[str] = mapped_column(server_default="queued")
    desired_state: Mapped[str] = mapped_column(server_default="run")
    stage: Mapped[str | None]
    progress: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    reason_code: Mapped[str | None]
    reason_message: Mapped[str | None]
    attempt_no: Mapped[int] = mapped_column(server_default="0")
    last_seq: Mapped[int] = mapped_column(server_default="0")  # of job_events
    lease_token: Mapped[UUID | None]
    lease_worker: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())  # back-off after a failed attempt
    offered_at: Mapped[datetime | None]  # when a message was last put in the outbox for this queueing
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Attempt(Base):
    """One worker's try at a job."""

    __tablename__ = "attempts"

    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]  # succeeded, cancelled, or a FailureClass
    reason_code: Mapped[str | None]
    reason_message: Mapped[str | None]


class Checkpoint(Base):
    """A finished stage's folder in the object store, so that any worker can go on from there."""

    __tablename__ = "checkpoints"

    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    prefix: Mapped[str]
    files: Mapped[list[str]]  # paths below prefix
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class JobEvent(Base):
    """Append-only: everything that happened to a job, in order."""

    __tablename__ = "job_events"

    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    level: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Outbox(Base):
    """What must be told outside, written with the change that causes it and sent afterwards."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_unsent", "id", postgresql_where=text("sent_at IS NULL")),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    topic: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sent_at: Mapped[datetime | None]


class Worker(Base):
    """A worker process as it last reported itself."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    local_models: Mapped[list[str]]  # what local: references it can resolve
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IdempotencyKey(Base):
    """The answer already given under a client's Idempotency-Key, stored with what it created."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Model(Base):
    """A name in the registry; its versions are what people download."""

    __tablename__ = "models"

    id: Mapped[ModelId] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    base_model: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    versions: Mapped[list["Version"]] = relationship(
        back_populates="model", order_by="Version.number.desc()", lazy="raise"
    )


class Version(Base):
    """One published checkpoint. Immutable; `manifest_sha256` is its identity."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        UniqueConstraint("job_id"),  # a job publishes once, however often its last step is repeated
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    model_id: Mapped[ModelId] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"))
    manifest_sha256: Mapped[str]
    manifest: Mapped[dict[str, Any]]  # bitsmith_core.bundle.Manifest
    prefix: Mapped[str]  # of its files in the object store
    bytes: Mapped[int] = mapped_column(BigInteger)
    bpw_codes: Mapped[float | None]  # both None for a version without codes: merged adapters
    bpw_effective: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    model: Mapped[Model] = relationship(back_populates="versions", lazy="raise")
    scores: Mapped[list["EvalResult"]] = relationship(order_by="EvalResult.id", lazy="raise")


class EvalResult(Base):
    """One score of one version, or of what it came from (`subject`)."""

    __tablename__ = "eval_results"
    __table_args__ = (UniqueConstraint("version_id", "subject", "task", "metric"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    subject: Mapped[str]
    task: Mapped[str]
    metric: Mapped[str]
    value: Mapped[float]
    stderr: Mapped[float | None]
    n: Mapped[int]
    n_unit: Mapped[str]
    higher_is_better: Mapped[bool]
    comparable_key: Mapped[str]
