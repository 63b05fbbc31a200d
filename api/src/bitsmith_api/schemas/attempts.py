"""What the attempts at a job leave: how each went, checkpoints, curves."""

from collections.abc import Iterable
from typing import Any, Literal, Self

from bitsmith_core import jobs
from bitsmith_core.ids import JobId
from bitsmith_core.jobs.queries import Series as SeriesRow
from bitsmith_core.spec import JobSpec
from pydantic import BaseModel, Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix, unix_or_none


class Attempt(Listed):
    """One worker's try at a job."""

    id: str = Field(description="job id and number", examples=["ftjob-0kp1p4n3vtsu5qc1q0o8g0a4lk:1"])
    object: Literal["fine_tuning.job.attempt"] = "fine_tuning.job.attempt"
    number: int
    worker: str
    stage: str | None = Field(description="where it is, or was when it ended")
    outcome: str | None = Field(
        description="succeeded, cancelled, paused, or the class of failure: yield, infra, resource, data, config, "
        "divergence, unknown; null while it runs"
    )
    reason_code: str | None
    reason_message: str | None
    exit_code: int | None = Field(description="the engine's; negative: the signal that ended it")
    evidence: dict[str, Any]
    start_step: int | None = Field(description="of training; what it continued from")
    end_step: int | None
    peak_memory_bytes: int | None
    gpu_seconds: float = Field(description="the lease held, times the devices")
    started_at: UnixSeconds
    ended_at: UnixSeconds | None

    @classmethod
    def of(cls, row: jobs.Attempt) -> Self:
        return cls(
            id=f"{row.job_id}:{row.number}",
            number=row.number,
            worker=row.worker,
            stage=row.stage,
            outcome=row.outcome,
            reason_code=row.reason_code,
            reason_message=row.reason_message,
            exit_code=row.exit_code,
            evidence=row.evidence,
            start_step=row.start_step,
            end_step=row.end_step,
            peak_memory_bytes=row.peak_memory_bytes,
            gpu_seconds=row.gpu_seconds,
            started_at=unix(row.started_at),
            ended_at=unix_or_none(row.ended_at),
        )


class AttemptList(Page[Attempt]):
    pass


class CheckpointMetrics(BaseModel):
    """OpenAI's names; null for what was not measured."""

    step: float | None
    train_loss: float | None
    valid_loss: float | None
    train_mean_token_accuracy: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class Checkpoint(Listed):
    """What any worker can go on from."""

    id: str = Field(examples=["ftckpt-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str = Field(description="its name; only a finished job's model can be loaded")
    step_number: int = Field(description="of training; 0: the whole stage is finished")
    metrics: CheckpointMetrics
    measured: dict[str, float] = Field(description="all that was measured at that step")
    stage: str
    attempt: int
    files: int
    bytes: int
    created_at: UnixSeconds

    @classmethod
    def of(cls, row: jobs.Checkpoint, spec: JobSpec) -> Self:
        measured = row.metrics
        return cls(
            id=row.id,
            fine_tuning_job_id=row.job_id,
            fine_tuned_model_checkpoint=f"{spec.model_name}:{row.stage}-{row.step}",
            step_number=row.step,
            metrics=CheckpointMetrics(
                step=row.step, train_loss=measured.get("loss"), valid_loss=measured.get("held_out_loss")
            ),
            measured=measured,
            stage=row.stage,
            attempt=row.attempt,
            files=len(row.files),
            bytes=row.bytes,
            created_at=unix(row.created_at),
        )


class CheckpointList(Page[Checkpoint]):
    pass


class Series(BaseModel):
    """One curve: values[i] was measured at steps[i]."""

    attempt: int = Field(description="curves of different attempts meet in a seam")
    stage: str
    name: str = Field(examples=["loss"])
    steps: list[int]
    values: list[float]
    total_points: int = Field(description="how many were measured; more than there are here if some were left out")

    @classmethod
    def of(cls, row: SeriesRow) -> Self:
        return cls(
            attempt=row.attempt,
            stage=row.stage,
            name=row.name,
            steps=[point.step for point in row.points],
            values=[point.value for point in row.points],
            total_points=row.total,
        )


class Metrics(BaseModel):
    object: Literal["fine_tuning.job.metrics"] = "fine_tuning.job.metrics"
    job_id: str
    series: list[Series]

    @classmethod
    def of(cls, job_id: JobId, rows: Iterable[SeriesRow]) -> Self:
        return cls(job_id=job_id, series=[Series.of(row) for row in rows])
