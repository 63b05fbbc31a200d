"""Versions of models: what was made, what was measured on it, and where its files are."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from bitsmith_core import registry
from bitsmith_core.bundle import Environment, Manifest, QuantizationFacts, Score, StageFacts, TrainingFacts
from bitsmith_core.registry.filters import method_of
from bitsmith_core.registry.headlines import Headline
from pydantic import BaseModel, Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix

_HEADLINE = ("task", "metric", "value", "stderr", "n", "n_unit", "higher_is_better", "comparable_key", "subject")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How files can be downloaded: `url_of` signs a link to a file of a version."""

    url_of: Callable[[registry.VersionFile], str]
    expires_at: datetime


class ModelFile(BaseModel):
    path: str = Field(examples=["model.safetensors"])
    bytes: int
    sha256: str
    download_url: str = Field(description="anybody may GET it until download_expires_at, without a key")


class BaseScore(BaseModel):
    """What the version's own float base scored on the very same."""

    value: float
    stderr: float | None
    n: int


class HeadlineScore(BaseModel):
    """A version's first metric in a task, by its newest evaluation."""

    subject: str
    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    n_unit: str
    higher_is_better: bool
    comparable_key: str
    base: BaseScore | None = Field(description="null: the float base was not scored under the same comparable_key")
    difference: float | None = Field(description="value minus the base's; null where base is")

    @classmethod
    def of(cls, found: Headline) -> Self:
        base = found.base
        return cls(
            **{name: getattr(found.score, name) for name in _HEADLINE},
            base=None if base is None else BaseScore(value=base.value, stderr=base.stderr, n=base.n),
            difference=found.difference,
        )


class VersionFacts(Listed):
    """What a version is in one line."""

    id: str = Field(description="name@version", examples=["name-qsft@1"])
    object: Literal["model.version"] = "model.version"
    model: str
    version: int
    job_id: str
    created_at: UnixSeconds
    method: str = Field(examples=["qsft"])
    scheme: str | None = Field(description="of the quantization; null for merged adapters")
    dataset: str | None = Field(description="id of the training file, which may be deleted; null: none")
    bytes: int = Field(description="of all files together")
    weights_bytes: int = Field(description="of what is loaded to serve it")
    bpw_codes: float | None = Field(
        description="bits per weight, codes only, as model names in the field count; null for merged adapters"
    )
    bpw_effective: float | None = Field(description="bits per weight with scales and zeros; null for merged adapters")
    manifest_sha256: str = Field(description="the version's identity: one digest over all its files")


class VersionSummary(VersionFacts):
    scores: list[HeadlineScore] = Field(description="one for each task")

    @classmethod
    def of(cls, name: str, row: registry.Version, scores: list[Headline]) -> Self:
        return cls(**facts(name, row), scores=[HeadlineScore.of(score) for score in scores])


class VersionList(Page[VersionSummary]):
    pass


class EvalReference(BaseModel):
    """One evaluation; GET /v1/evals/{id} has it all."""

    id: str
    job_id: str
    created_at: UnixSeconds

    @classmethod
    def of(cls, row: registry.Eval) -> Self:
        return cls(id=row.id, job_id=row.job_id, created_at=unix(row.created_at))


class Version(VersionFacts):
    scores: list[Score] = Field(description="all, of what it came from too; of several evaluations the newest")
    aliases: list[str] = Field(default=[], description="that point at it", examples=[["prod"]])
    evals: list[EvalReference] = Field(default=[], description="its job's own first")
    quantization: QuantizationFacts | None = Field(description="null for merged adapters")
    training: TrainingFacts | None
    stages: list[StageFacts]
    environment: Environment
    files: list[ModelFile]
    download_expires_at: UnixSeconds

    @classmethod
    def linked(cls, name: str, row: registry.Version, link: Link) -> Self:
        manifest = Manifest.model_validate(row.manifest)
        stored = {file.path: file for file in row.files}
        return cls(
            **facts(name, row),
            scores=_newest(row.scores),
            quantization=manifest.quantization,
            training=manifest.training,
            stages=manifest.stages,
            environment=manifest.environment,
            files=[
                ModelFile(
                    path=file.path,
                    bytes=file.bytes,
                    sha256=file.sha256,
                    download_url=link.url_of(stored[file.path]),
                )
                for file in manifest.files
            ],
            download_expires_at=unix(link.expires_at),
        )


def facts(name: str, row: registry.Version) -> dict[str, Any]:
    return {
        "id": f"{name}@{row.number}",
        "model": name,
        "version": row.number,
        "job_id": row.job_id,
        "created_at": unix(row.created_at),
        "method": method_of(row.subject),
        "scheme": row.scheme,
        "dataset": row.training_file,
        "bytes": row.bytes,
        "weights_bytes": row.weights_bytes,
        "bpw_codes": row.bpw_codes,
        "bpw_effective": row.bpw_effective,
        "manifest_sha256": row.manifest_sha256,
    }


def _newest(rows: list[registry.EvalResult]) -> list[Score]:
    """One for each subject, task and metric: the last that was recorded."""
    found = {(row.subject, row.task, row.metric): row for row in rows}
    return [Score(**{name: getattr(row, name) for name in Score.model_fields}) for row in found.values()]
