"""The registry: models, their versions, what was measured on them and where their files are."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from bitsmith_core import registry
from bitsmith_core.bundle import Environment, Manifest, QuantizationFacts, Score, StageFacts, TrainingFacts
from pydantic import BaseModel, Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix


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


class VersionSummary(BaseModel):
    id: str = Field(description="name@version", examples=["name-qsft@1"])
    object: Literal["model.version"] = "model.version"
    model: str
    version: int
    job_id: str
    created_at: UnixSeconds
    bytes: int = Field(description="of all files together")
    bpw_codes: float | None = Field(
        description="bits per weight, codes only, as model names in the field count; null for merged adapters"
    )
    bpw_effective: float | None = Field(description="bits per weight with scales and zeros; null for merged adapters")
    manifest_sha256: str = Field(description="the version's identity: one digest over all its files")
    scores: list[Score]

    @classmethod
    def of(cls, name: str, row: registry.Version) -> Self:
        return cls(**_summary(name, row))


class Version(VersionSummary):
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
            **_summary(name, row),
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


class ModelSummary(Listed):
    id: str = Field(description="the model's name", examples=["name-qsft"])
    object: Literal["model"] = "model"
    created: UnixSeconds
    owned_by: Literal["bitsmith"] = "bitsmith"
    base_model: str = Field(examples=["hf:org/name"])
    latest: VersionSummary | None

    @classmethod
    def of(cls, row: registry.Model) -> Self:
        return cls(**_model(row))


class ModelList(Page[ModelSummary]):
    pass


class Model(ModelSummary):
    versions: list[Version] = Field(description="newest first")

    @classmethod
    def linked(cls, row: registry.Model, link: Link, *, number: int | None = None) -> Self:
        """
        Args:
            number: of the one version that is meant; it is there.
        """
        versions = [version for version in row.versions if number in (None, version.number)]
        facts = _model(row)
        if number is not None:
            facts |= {"id": f"{row.name}@{number}", "latest": VersionSummary.of(row.name, versions[0])}
        return cls(**facts, versions=[Version.linked(row.name, version, link) for version in versions])


class ModelDeleted(BaseModel):
    id: str = Field(examples=["name-qsft@1"])
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


def _model(row: registry.Model) -> dict[str, Any]:
    return {
        "id": row.name,
        "created": unix(row.created_at),
        "base_model": row.base_model,
        "latest": VersionSummary.of(row.name, row.versions[0]) if row.versions else None,
    }


def _summary(name: str, row: registry.Version) -> dict[str, Any]:
    return {
        "id": f"{name}@{row.number}",
        "model": name,
        "version": row.number,
        "job_id": row.job_id,
        "created_at": unix(row.created_at),
        "bytes": row.bytes,
        "bpw_codes": row.bpw_codes,
        "bpw_effective": row.bpw_effective,
        "manifest_sha256": row.manifest_sha256,
        "scores": [_score(score) for score in row.scores],
    }


def _score(row: registry.EvalResult) -> Score:
    return Score(**{name: getattr(row, name) for name in Score.model_fields})
