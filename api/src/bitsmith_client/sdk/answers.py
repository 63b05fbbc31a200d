"""What the API answers. Unknown fields are ignored, so that an older client understands a newer server."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _moment(value: Any) -> Any:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else value


Moment = Annotated[datetime, BeforeValidator(_moment)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class File(_Answer):
    id: str
    bytes: int
    created_at: Moment
    filename: str
    purpose: str
    sha256: str
    examples: int


class PartLink(_Answer):
    """Where to PUT a part of an upload."""

    id: str
    bytes: int
    url: str


class Upload(_Answer):
    """A file on its way in, in parts."""

    id: str
    bytes: int
    created_at: Moment
    expires_at: Moment
    filename: str
    purpose: str
    status: str
    file: File | None = None


class Reason(_Answer):
    code: str
    message: str


class Queue(_Answer):
    position: int  # in its pool
    ahead: list[str] = Field(default_factory=list)
    obstacle: str | None = None  # why it does not start though it be the next


class JobProgress(_Answer):
    stage: str | None = None
    done: int = 0
    total: int = 0
    eta_s: float | None = None


class Job(_Answer):
    id: str
    model: str
    training_file: str | None  # None: an evaluation
    validation_file: str | None = None
    suffix: str | None = None
    seed: int = 0
    metadata: dict[str, str] = Field(default_factory=dict)
    method: dict[str, Any] = Field(default_factory=dict)
    status: str
    desired_state: str = "run"
    priority: int = 0
    pool: str = "default"
    version: int = 1
    queue: Queue | None = None
    stage: str | None = None
    progress: JobProgress = JobProgress()
    status_reason: Reason | None = None
    error: Reason | None = None
    fine_tuned_model: str | None = None
    eval_id: str | None = None
    attempts: int = 0
    created_at: Moment
    started_at: Moment | None = None
    finished_at: Moment | None = None

    @property
    def is_over(self) -> bool:
        return self.status in {"succeeded", "failed", "cancelled"}


class MemoryPart(_Answer):
    name: str
    bytes: int


class StageEstimate(_Answer):
    stage: str
    bytes: int
    parts: list[MemoryPart]


class Estimate(_Answer):
    confidence: str
    device: str
    peak_bytes: int
    worker_memory_bytes: int | None = None
    fits: bool | None = None
    stages: list[StageEstimate]
    steps: int
    tokens: int
    training_s: float


class DryRunProblem(_Answer):
    pointer: str
    code: str
    detail: str


class DryRun(_Answer):
    """What a request would become; nothing was written."""

    spec: dict[str, Any]
    estimate: Estimate | None = None
    warnings: list[str] = Field(default_factory=list)
    errors: list[DryRunProblem] = Field(default_factory=list)


class Attempt(_Answer):
    id: str
    number: int
    worker: str
    stage: str | None = None
    outcome: str | None = None
    reason_code: str | None = None
    reason_message: str | None = None
    exit_code: int | None = None
    start_step: int | None = None
    end_step: int | None = None
    peak_memory_bytes: int | None = None
    gpu_seconds: float = 0.0
    started_at: Moment
    ended_at: Moment | None = None


class Checkpoint(_Answer):
    id: str
    stage: str
    step_number: int
    attempt: int
    bytes: int
    measured: dict[str, float] = Field(default_factory=dict)
    created_at: Moment


class Series(_Answer):
    attempt: int
    stage: str
    name: str
    steps: list[int]
    values: list[float]
    total_points: int


class Event(_Answer):
    id: str
    seq: int
    created_at: Moment
    level: str
    type: str
    message: str
    data: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """What happened, e.g. stage.finished; empty if the server did not say."""
        return str(self.data.get("event", ""))


class Score(_Answer):
    subject: str
    task: str
    metric: str
    value: float
    stderr: float | None = None
    n: int
    n_unit: str
    higher_is_better: bool
    comparable_key: str
    difference: float | None = None  # to the version's own float base, in lists; None: not comparable


class StageFacts(_Answer):
    stage: str
    wall_s: float
    peak_memory_bytes: int
    resumed: bool = False


class ModelFile(_Answer):
    path: str
    bytes: int
    sha256: str
    download_url: str


class Version(_Answer):
    """A published checkpoint. In lists `files`, `stages` and the dictionaries are left out and so are empty here."""

    id: str
    model: str
    version: int
    job_id: str
    created_at: Moment
    method: str | None = None
    scheme: str | None = None
    dataset: str | None = None
    aliases: list[str] = Field(default_factory=list)
    bytes: int
    weights_bytes: int | None = None
    bpw_codes: float | None  # None: merged adapters have no codes
    bpw_effective: float | None
    manifest_sha256: str
    scores: list[Score] = Field(default_factory=list)
    quantization: dict[str, Any] | None = Field(default_factory=dict)
    training: dict[str, Any] | None = None
    stages: list[StageFacts] = Field(default_factory=list)
    environment: dict[str, Any] = Field(default_factory=dict)
    files: list[ModelFile] = Field(default_factory=list)


class Model(_Answer):
    id: str
    created: Moment
    base_model: str
    display_name: str | None = None
    task: str = "text-generation"
    visibility: str = "project"
    licence: str | None = None
    tags: list[str] = Field(default_factory=list)
    aliases: dict[str, int] = Field(default_factory=dict)
    card: str | None = None  # what people wrote; empty in lists
    gates: dict[str, Any] = Field(default_factory=dict)
    revision: int = 1
    latest: Version | None = None
    versions: list[Version] = Field(default_factory=list)
