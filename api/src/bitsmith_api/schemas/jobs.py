"""A fine-tuning job as it stands: OpenAI's object, with what OpenAI does not say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from bitsmith_core import jobs
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import DesiredState, JobStatus
from bitsmith_core.jobs.queries import QueuePlace
from bitsmith_core.spec import JobSpec, Labels, LoraSettings, Method
from bitsmith_core.spec.openai import MAX_PRIORITY, learning_rate_multiplier
from bitsmith_core.wire import FailureClass
from pydantic import BaseModel, ConfigDict, Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix, unix_or_none

_RETRYABLE = {FailureClass.YIELD, FailureClass.INFRA, FailureClass.RESOURCE, FailureClass.UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """What is known of a job besides its row."""

    result: str | None = None  # name@version of what it published
    eval_id: str | None = None  # of the evaluation that it published, by itself or with a version
    trained_tokens: int | None = None
    place: QueuePlace | None = None
    attempt: jobs.Attempt | None = None  # the newest


class Progress(BaseModel):
    """How far the stage is; empty before the first one."""

    stage: str
    done: int
    total: int
    fraction: float | None = Field(description="0 to 1; null while the stage's length is unknown")
    eta_s: float | None = Field(description="seconds left of this stage")

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Self:
        done, total = facts["done"], facts["total"]
        return cls(
            stage=facts["stage"],
            done=done,
            total=total,
            fraction=min(1.0, done / total) if total else None,
            eta_s=facts["eta_s"],
        )


class NoProgress(BaseModel):
    pass


class Reason(BaseModel):
    """Why the newest attempt ended as it did."""

    code: str = Field(examples=["out_of_memory"])
    message: str
    retryable: bool = Field(description="whether the same job may succeed another time; bad data will not")
    evidence: dict[str, Any] = Field(description="what was seen: exit code, device, last lines of the log, …")


class JobError(BaseModel):
    code: str
    message: str
    param: None = None


class Queue(BaseModel):
    """Where a waiting job stands; it moves with priorities and with what projects have used."""

    position: int = Field(description="1: the next of its pool to start", examples=[3])
    ahead: list[str] = Field(
        description="the nearest of this project's jobs in the pool that start earlier, ten at most"
    )
    obstacle: str | None = Field(
        description="why it does not start though it be the next; null if nothing is known",
        examples=["no live worker of the pool h100; there are pools: default, l40s"],
    )


class Hyperparameters(BaseModel):
    """As OpenAI's clients read them; null where the method has none."""

    n_epochs: int | None
    batch_size: int | None
    learning_rate_multiplier: float | None = Field(description="of the default rate of the scales")

    @classmethod
    def of(cls, spec: JobSpec) -> Self:
        settings = spec.settings
        training = settings.training if isinstance(settings, LoraSettings) else spec.training
        return cls(
            n_epochs=None if training is None else training.epochs,
            batch_size=None if training is None else training.batch_size,
            learning_rate_multiplier=learning_rate_multiplier(spec.training.optimizer) if spec.training else None,
        )


class Job(Listed):
    id: str = Field(examples=["ftjob-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str = Field(description="the base model", examples=["hf:org/name"])
    training_file: str | None = Field(description="null: an evaluation, which trains nothing")
    validation_file: str | None = Field(description="null: examples of the training file are held out instead")
    suffix: str | None
    seed: int
    metadata: dict[str, str] = Field(description="may be changed")
    method: Method = Field(description="with every default filled in and every `auto` decided")
    hyperparameters: Hyperparameters
    status: JobStatus
    desired_state: DesiredState = Field(description="pause or cancel once somebody asked for it")
    priority: int = Field(description="higher goes first; may be changed")
    pool: str = Field(description="of workers: one of these runs it", examples=["default"])
    version: int = Field(description="of what may be changed, and so the ETag")
    stage: str | None = Field(description="what the worker does, or did last")
    progress: Progress | NoProgress
    queue: Queue | None = Field(description="null unless it waits")
    status_reason: Reason | None
    error: JobError | None = Field(description="why it failed; null unless it did")
    fine_tuned_model: str | None = Field(description="what it published", examples=["name-qsft@1"])
    eval_id: str | None = Field(description="the evaluation that it published, by itself or with a version")
    trained_tokens: int | None = Field(description="tokens with a loss; null unless it succeeded")
    attempts: int = Field(description="how many workers tried, so far")
    adjustments: dict[str, Any] = Field(description="what a retry does otherwise than the request says")
    organization_id: str = Field(description="the project")
    result_files: list[str] = Field(default=[], description="always empty: see the model's files and /metrics")
    integrations: list[Any] = Field(default=[], description="always empty: webhooks tell other services")
    estimated_finish: UnixSeconds | None = Field(description="of the present stage; null unless it runs and knows")
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    finished_at: UnixSeconds | None

    @classmethod
    def of(cls, row: jobs.Job, context: JobContext, *, now: int) -> Self:
        """
        Args:
            now: unix seconds.
        """
        spec = JobSpec.model_validate(row.spec)
        reason = _reason(row, context.attempt)
        has_failed = row.status == JobStatus.FAILED and reason is not None
        eta_s = row.progress.get("eta_s") if row.status == JobStatus.RUNNING else None
        place = context.place
        return cls(
            id=row.id,
            model=spec.model,
            training_file=spec.training_file,
            validation_file=spec.validation_file,
            suffix=spec.suffix,
            seed=spec.seed,
            metadata=row.labels,
            method=spec.method,
            hyperparameters=Hyperparameters.of(spec),
            status=JobStatus(row.status),
            desired_state=DesiredState(row.desired_state),
            priority=row.priority,
            pool=row.pool,
            version=row.version,
            stage=row.stage,
            progress=Progress.of(row.progress) if row.progress else NoProgress(),
            queue=None
            if place is None
            else Queue(position=place.position, ahead=list(place.ahead), obstacle=place.obstacle),
            status_reason=reason,
            error=JobError(code=reason.code, message=reason.message) if has_failed and reason else None,
            fine_tuned_model=context.result,
            eval_id=context.eval_id,
            trained_tokens=context.trained_tokens,
            attempts=row.attempt_no,
            adjustments=row.adjustments,
            organization_id=row.project_id,
            estimated_finish=None if eta_s is None else now + round(eta_s),
            created_at=unix(row.created_at),
            started_at=unix_or_none(row.started_at),
            finished_at=unix_or_none(row.finished_at),
        )


def _reason(row: jobs.Job, attempt: jobs.Attempt | None) -> Reason | None:
    """The job's own reason, or else why its newest attempt ended and it waits again."""
    is_over = row.reason_code is not None
    code = row.reason_code or (attempt.reason_code if attempt else None)
    message = row.reason_message or (attempt.reason_message if attempt else None)
    if code is None or (not is_over and row.status not in (JobStatus.QUEUED, JobStatus.PAUSED)):
        return None
    evidence = dict(attempt.evidence) if attempt else {}
    if attempt is not None and attempt.exit_code is not None:
        evidence["exit_code"] = attempt.exit_code
    return Reason(
        code=code,
        message=message or "",
        retryable=attempt is not None and attempt.outcome in _RETRYABLE,
        evidence=evidence,
    )


class JobList(Page[Job]):
    pass


class JobChange(BaseModel):
    """What may change after submission; what is left out stays. Anything else is a clone."""

    model_config = ConfigDict(extra="forbid")

    priority: int | None = Field(default=None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    metadata: Labels | None = Field(default=None, description="replaces all of it")


class MemoryPart(BaseModel):
    name: str = Field(examples=["activations"])
    bytes: int


class StageEstimate(BaseModel):
    stage: str
    bytes: int
    parts: list[MemoryPart]


class Estimated(BaseModel):
    """What a job will need; read the confidence."""

    confidence: Literal["low", "medium"]
    device: Literal["cpu", "cuda"]
    peak_bytes: int = Field(description="of the stage that needs most")
    worker_memory_bytes: int | None = Field(
        description="of the device of the pool's largest live worker; null if none says"
    )
    fits: bool | None = Field(description="null if no worker of the pool says what it has")
    stages: list[StageEstimate]
    steps: int = Field(description="of the optimizer")
    tokens: int = Field(description="read in training")
    training_s: float


class DryRunProblem(BaseModel):
    pointer: str
    code: str
    detail: str


class DryRun(BaseModel):
    """What a request would become; nothing was written."""

    object: Literal["fine_tuning.job.dry_run"] = "fine_tuning.job.dry_run"
    spec: JobSpec = Field(description="every default filled in and every `auto` decided")
    priority: int
    estimate: Estimated | None = Field(description="null if nothing is known of the base model's size")
    warnings: list[str]
    errors: list[DryRunProblem] = Field(description="why the request would be refused; empty if it would not")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """JobContext of many jobs at once."""

    results: Mapping[JobId, str] = field(default_factory=dict)
    evals: Mapping[JobId, str] = field(default_factory=dict)
    trained_tokens: Mapping[JobId, int] = field(default_factory=dict)
    places: Mapping[JobId, QueuePlace] = field(default_factory=dict)
    attempts: Mapping[JobId, jobs.Attempt] = field(default_factory=dict)

    def render(self, rows: Sequence[jobs.Job], *, now: int) -> list[Job]:
        return [
            Job.of(
                row,
                JobContext(
                    result=self.results.get(row.id),
                    eval_id=self.evals.get(row.id),
                    trained_tokens=self.trained_tokens.get(row.id),
                    place=self.places.get(row.id),
                    attempt=self.attempts.get(row.id),
                ),
                now=now,
            )
            for row in rows
        ]
