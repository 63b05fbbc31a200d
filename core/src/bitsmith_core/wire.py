"""The lines an engine prints: one JSON object a line on stdout, and the exit status that ends them.

    python -m bitsmith_engine SPEC INPUTS OUT

    SPEC     a JobSpec as JSON
    INPUTS   model/ (a transformers folder, or one .gguf file), training.jsonl, validation.jsonl,
             packs/<file id>.jsonl of the benchmarks
    OUT      stages/<stage>/ appears (by rename) when a stage is finished: an engine started again skips it;
             artifacts/ appears last, complete, with manifest.json

Nothing else goes to stdout; logs go to stderr. EOF on stdin means that the supervisor died: the engine exits at once.
SIGTERM means stop: the engine exits with STOPPED, its finished stages intact.
"""

import math
from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator


class Stage(StrEnum):
    FETCHING = "fetching"  # worker: inputs down
    MEASURING = "measuring"  # sensitivity of each unit
    SEARCHING = "searching"  # bits for each unit
    QUANTIZING = "quantizing"  # first codes
    CALIBRATING = "calibrating"  # distillation: codes and scales fitted to the float model's outputs
    TRAINING = "training"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"
    PUBLISHING = "publishing"  # worker: artifacts up


class FailureClass(StrEnum):
    """Decides whether and how often an attempt is repeated (bitsmith_core.jobs.failures)."""

    YIELD = "yield"  # asked to stop; not the job's fault
    INFRA = "infra"  # a server or the worker died
    RESOURCE = "resource"  # out of memory or disk
    DATA = "data"
    CONFIG = "config"
    DIVERGENCE = "divergence"  # the loss became NaN or exploded
    UNKNOWN = "unknown"


class ExitStatus(IntEnum):
    SUCCEEDED = 0
    FAILED = 1  # a Failed line says why; without one it crashed
    STOPPED = 3  # SIGTERM obeyed
    ORPHANED = 4  # stdin closed: the supervisor is gone


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StageStarted(_Line):
    type: Literal["stage_started"] = "stage_started"
    stage: Stage


class StageFinished(_Line):
    """OUT/stages/<stage> is complete now (if the stage keeps anything)."""

    type: Literal["stage_finished"] = "stage_finished"
    stage: Stage
    wall_s: float
    peak_memory_bytes: int  # of the engine so far: device memory on a GPU, resident set on CPU
    resumed: bool = False


class Progress(_Line):
    """How far a stage is, with whatever it measures on the way (loss, flips, tokens_per_s, …)."""

    type: Literal["progress"] = "progress"
    stage: Stage
    done: int
    total: int
    eta_s: float | None = None  # of this stage
    metrics: dict[str, float] = Field(default_factory=dict)

    @field_validator("metrics")
    @classmethod
    def _finite(cls, metrics: dict[str, float]) -> dict[str, float]:
        """JSON knows no NaN: a loss that became one is left out, and the engine's Failed line tells of it."""
        return {name: value for name, value in metrics.items() if math.isfinite(value)}


class Note(_Line):
    """Something a person should know: a fallback, a warning."""

    type: Literal["note"] = "note"
    level: Literal["info", "warn"]
    message: str


class Finished(_Line):
    type: Literal["finished"] = "finished"
    manifest_sha256: str


class Failed(_Line):
    type: Literal["failed"] = "failed"
    failure: FailureClass
    code: str  # stable, snake_case
    message: str  # what happened and what to do, with values


Line = Annotated[StageStarted | StageFinished | Progress | Note | Finished | Failed, Field(discriminator="type")]

_ADAPTER: TypeAdapter[Line] = TypeAdapter(Line)


def encode(line: Line) -> str:
    return line.model_dump_json() + "\n"


def decode(text: str | bytes) -> Line:
    """Raises ValueError (pydantic's ValidationError) for anything that is not a line of this protocol."""
    return _ADAPTER.validate_json(text)
