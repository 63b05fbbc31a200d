"""Jobs, the attempts at them and what those leave behind."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bitsmith_core.db.base import Base
from bitsmith_core.ids import CheckpointId, FileId, JobId, ProjectId

OPEN_STATUSES = ("queued", "running", "paused")
"""Of jobs that are not over. There is an index on these, which a query uses if it names them."""


class Job(Base):
    """What was asked, who is on it, how far it is. `spec` never changes; the lease decides who may write the rest."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("status IN ('queued','running','paused','succeeded','failed','cancelled')", name="status"),
        CheckConstraint("desired_state IN ('run','pause','cancel')", name="desired_state"),
        CheckConstraint("(status = 'running') = (lease_token IS NOT NULL)", name="lease_iff_running"),
        Index("ix_jobs_of_pool", "pool", "priority", "created_at", postgresql_where=text("status = 'queued'")),
        # Lists, and what they are narrowed to. Ids sort by time, so each reads the end of an index.
        Index("ix_jobs_project", "project_id", "id"),
        Index("ix_jobs_status", "project_id", "status", "id"),
        Index("ix_jobs_base", "project_id", "base_model", "id"),
        Index("ix_jobs_urgent", "project_id", "priority", "id", postgresql_where=text("priority <> 0")),
        Index("ix_jobs_labels", "metadata", postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}),
        Index("ix_jobs_unlabelled", "project_id", "id", postgresql_where=text("metadata = '{}'::jsonb")),
        Index("ix_jobs_open", "project_id", "id", postgresql_where=text("status IN ('queued','running','paused')")),
        Index("ix_jobs_finished", "finished_at"),
        Index("ix_jobs_leased", "lease_expires_at", postgresql_where=text("status = 'running'")),
    )

    id: Mapped[JobId] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"))
    spec: Mapped[dict[str, Any]]
    spec_sha256: Mapped[str]
    base_model: Mapped[str]
    training_file: Mapped[FileId | None] = mapped_column(ForeignKey("files.id"))
    validation_file: Mapped[FileId | None] = mapped_column(ForeignKey("files.id"))
    pool: Mapped[str] = mapped_column(server_default="default")  # as the spec says; whose workers may claim it
    status: Mapped[str] = mapped_column(server_default="queued")
    desired_state: Mapped[str] = mapped_column(server_default="run")
    priority: Mapped[int] = mapped_column(server_default="0")
    # "metadata" is SQLAlchemy's own word; people may change it after submission, unlike the spec.
    labels: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'::jsonb"))
    version: Mapped[int] = mapped_column(server_default="1")  # of what people may change: priority, metadata, wishes
    adjustments: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))  # what retries do otherwise
    submitted_by: Mapped[str | None]  # an actor as in the audit trail
    traceparent: Mapped[str | None]  # W3C: the trace that its submission belongs to
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
    __table_args__ = (Index("ix_attempts_ended", "ended_at"),)

    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]  # succeeded, cancelled, paused, or a FailureClass
    reason_code: Mapped[str | None]
    reason_message: Mapped[str | None]
    exit_code: Mapped[int | None]  # of the engine; negative: the signal that ended it
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    stage: Mapped[str | None]  # where it was when it ended
    start_step: Mapped[int | None]  # of training
    end_step: Mapped[int | None]
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    gpu_seconds: Mapped[float] = mapped_column(Double, server_default="0")  # the lease held, times the devices


class Tally(Base):
    """Attempts or jobs that were over at a moment, counted for good; later ones are counted when somebody asks."""

    __tablename__ = "tallies"

    kind: Mapped[str] = mapped_column(primary_key=True)  # attempt, job
    project_id: Mapped[ProjectId] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)  # of a job: its status
    reason_code: Mapped[str] = mapped_column(primary_key=True)  # empty where there is none
    count: Mapped[int] = mapped_column(BigInteger)
    gpu_seconds: Mapped[float] = mapped_column(Double)
    until: Mapped[datetime]  # the latest of a kind is that of all of it


class Checkpoint(Base):
    """What any worker can go on from: a finished stage's folder (step 0), or the training as it was after a step."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index("ix_checkpoints_job", "job_id", "id"), Index("ix_checkpoints_age", "created_at"))

    id: Mapped[CheckpointId] = mapped_column(unique=True)
    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, server_default="0")
    attempt: Mapped[int]
    prefix: Mapped[str]
    files: Mapped[list[str]]  # paths below prefix
    bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    metrics: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
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


class MetricChunk(Base):
    """What one attempt measured over a range of steps, by column."""

    __tablename__ = "metric_chunks"

    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    first_step: Mapped[int] = mapped_column(primary_key=True)
    last_step: Mapped[int]
    steps: Mapped[list[int]]
    columns: Mapped[dict[str, Any]]  # name -> as many values as there are steps; null where there is none
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LogChunk(Base):
    """A piece of an attempt's log; its bytes are in the object store."""

    __tablename__ = "log_chunks"
    __table_args__ = (Index("ix_log_chunks_age", "created_at"),)

    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    object_key: Mapped[str]
    bytes: Mapped[int]
    lines: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Worker(Base):
    """A worker process as it last reported itself."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    pool: Mapped[str] = mapped_column(server_default="default")
    local_models: Mapped[list[str]]  # what local: references it can resolve
    devices: Mapped[int] = mapped_column(server_default="1")  # each job takes all of them
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of one device; the host's without a GPU
    is_draining: Mapped[bool] = mapped_column(server_default=text("false"))  # takes no new job
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ClusterJob(Base):
    """A job and the object of a cluster that it was made of. An object is submitted once, however often it is seen."""

    __tablename__ = "cluster_jobs"
    __table_args__ = (Index("ix_cluster_jobs_there", "namespace", postgresql_where=text("gone_at IS NULL")),)

    uid: Mapped[str] = mapped_column(primary_key=True)  # the object's, never used twice
    namespace: Mapped[str]
    name: Mapped[str]
    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"), unique=True)
    is_cancelled_with_it: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    gone_at: Mapped[datetime | None]  # when the object was found deleted
