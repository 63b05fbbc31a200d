"""A fine-tuning job as it stands."""

from typing import Literal, Self

from bitsmith_core import jobs
from bitsmith_core.jobs import DesiredState, JobStatus
from bitsmith_core.spec import JobSpec, Method
from pydantic import BaseModel, Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix, unix_or_none


class Progress(BaseModel):
    """How far the stage is; empty before the first one."""

    stage: str
    done: int
    total: int
    eta_s: float | None = Field(description="seconds left of this stage")


class NoProgress(BaseModel):
    pass


class Reason(BaseModel):
    code: str = Field(examples=["out_of_memory"])
    message: str


class JobError(Reason):
    param: None = None


class Job(Listed):
    id: str = Field(examples=["ftjob-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str = Field(description="the base model", examples=["hf:org/name"])
    training_file: str
    validation_file: str
    suffix: str | None
    seed: int
    metadata: dict[str, str]
    method: Method = Field(description="with every default filled in")
    status: JobStatus
    desired_state: DesiredState = Field(description="cancel once somebody asked for it")
    stage: str | None = Field(description="what the worker does, or did last")
    progress: Progress | NoProgress
    status_reason: Reason | None
    error: JobError | None = Field(description="why it failed; null unless it did")
    fine_tuned_model: str | None = Field(description="what it published", examples=["name-qsft@1"])
    attempts: int = Field(description="how many workers tried, so far")
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    finished_at: UnixSeconds | None

    @classmethod
    def of(cls, row: jobs.Job, *, result: str | None) -> Self:
        """
        Args:
            result: name@version of what the job published.
        """
        spec = JobSpec.model_validate(row.spec)
        has_reason = row.reason_code is not None and row.reason_message is not None
        reason = Reason(code=row.reason_code or "", message=row.reason_message or "") if has_reason else None
        has_failed = row.status == JobStatus.FAILED and reason is not None
        return cls(
            id=row.id,
            model=spec.model,
            training_file=spec.training_file,
            validation_file=spec.validation_file,
            suffix=spec.suffix,
            seed=spec.seed,
            metadata=spec.metadata,
            method=spec.method,
            status=JobStatus(row.status),
            desired_state=DesiredState(row.desired_state),
            stage=row.stage,
            progress=Progress(**row.progress) if row.progress else NoProgress(),
            status_reason=reason,
            error=JobError(code=reason.code, message=reason.message) if has_failed and reason else None,
            fine_tuned_model=result,
            attempts=row.attempt_no,
            created_at=unix(row.created_at),
            started_at=unix_or_none(row.started_at),
            finished_at=unix_or_none(row.finished_at),
        )


class JobList(Page[Job]):
    pass
