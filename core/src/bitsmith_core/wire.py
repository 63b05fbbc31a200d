"""The lines an engine prints: one JSON object a line on stdout, and the exit status that ends them.

    python -m bitsmith_engine SPEC INPUTS OUT

    SPEC     a JobSpec as JSON
    INPUTS   model/ (a transformers folder, or one .gguf file), training.jsonl, validation.jsonl (if the spec has a
             validation_file), packs/<file id>.jsonl of the benchmarks; adjustments.json (Adjustments), if this attempt
             has any; to evaluate: no training.jsonl, model/ only if the spec wants the base, and version/, a bundle
             with its manifest.json
    OUT      stages/<stage>/ appears (by rename) when a stage is finished: an engine started again skips it;
             artifacts/ appears last, complete, with manifest.json;
             folders that CheckpointSaved lines name: put back into an empty OUT, the engine goes on from there

Nothing else goes to stdout; logs go to stderr. EOF on stdin means that the supervisor died: the engine exits at once.
SIGTERM means stop: the engine exits with STOPPED, its finished stages intact, calibration and
training at a checkpoint.
"""

import math
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator


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


class Metrics(_Line):
    """What was measured at every step since the last such line, by column. A step that is repeated comes again."""

    type: Literal["metrics"] = "metrics"
    stage: Stage
    steps: list[int]
    columns: dict[str, list[float | None]]

    @field_validator("columns")
    @classmethod
    def _finite(cls, columns: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
        return {
            name: [value if value is None or math.isfinite(value) else None for value in values]
            for name, values in columns.items()
        }

    @model_validator(mode="after")
    def _is_rectangular(self) -> Self:
        if any(len(values) != len(self.steps) for values in self.columns.values()):
            raise ValueError("every column has as many values as there are steps")
        if any(later <= earlier for earlier, later in pairwise(self.steps)):
            raise ValueError("steps increase")
        return self


class CheckpointSaved(_Line):
    """OUT/<path> is complete now. It stays as it is until it disappears, by a rename, after a later one is complete."""

    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    stage: Stage
    step: int = Field(ge=1)  # of that stage
    path: str  # of a folder, below OUT
    metrics: dict[str, float] = Field(default_factory=dict)

    @field_validator("metrics")
    @classmethod
    def _finite(cls, metrics: dict[str, float]) -> dict[str, float]:
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


Line = Annotated[
    StageStarted | StageFinished | Progress | Metrics | CheckpointSaved | Note | Finished | Failed,
    Field(discriminator="type"),
]


class Adjustments(BaseModel):
    """What this attempt does otherwise than the spec says, because of how earlier ones failed."""

    model_config = ConfigDict(extra="ignore", frozen=True)  # some adjustments are for the platform, not the engine

    micro_batch_size: int | None = Field(default=None, ge=1)
    step_factor: float = Field(default=1.0, gt=0, le=1)  # of all learning rates and of the flip budget


ADJUSTMENTS_FILE = "adjustments.json"

_ADAPTER: TypeAdapter[Line] = TypeAdapter(Line)


def encode(line: Line) -> str:
    return line.model_dump_json() + "\n"


def decode(text: str | bytes) -> Line:
    """Raises ValueError (pydantic's ValidationError) for anything that is not a line of this protocol."""
    return _ADAPTER.validate_json(text)
