"""The registry: names, and what their newest version is."""

from typing import Annotated, Any, Literal, Self

from bitsmith_core import registry
from bitsmith_core.registry.gates import GATES, Gates
from bitsmith_core.registry.search import Listed as Found
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix
from bitsmith_api.schemas.versions import VersionSummary

Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, StringConstraints(max_length=200_000, pattern=r"^[^\x00]*$")]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x20\x7f,]+$")]


class ModelFacts(Listed):
    id: str = Field(description="the model's name", examples=["name-qsft"])
    object: Literal["model"] = "model"
    created: UnixSeconds
    owned_by: Literal["bitsmith"] = "bitsmith"
    base_model: str = Field(examples=["hf:org/name"])
    display_name: str | None
    task: str = Field(examples=["text-generation"])
    visibility: Literal["project", "installation"] = Field(description="installation: all its projects may read it")
    licence: str | None = Field(examples=["apache-2.0"])
    tags: list[str]
    aliases: dict[str, int] = Field(description="which version each points at", examples=[{"prod": 1}])


class ModelSummary(ModelFacts):
    latest: VersionSummary = Field(description="the newest version")

    @classmethod
    def of(cls, found: Found) -> Self:
        return cls(
            **facts(found.model, found.aliases),
            latest=VersionSummary.of(found.model.name, found.version, found.scores),
        )


class ModelList(Page[ModelSummary]):
    pass


class Model(ModelSummary):
    card: str | None = Field(description="markdown that people wrote")
    gates: Gates = Field(description="by alias: what moving it asks for")
    revision: int = Field(description="of what people may change; the ETag")
    versions: list[VersionSummary] = Field(description="newest first, 100 at most; /versions has them all")

    @classmethod
    def listing(cls, row: registry.Model, aliases: dict[str, int], versions: list[VersionSummary]) -> Self:
        """
        Args:
            versions: at least one, the newest first.
        """
        return cls(
            **facts(row, aliases),
            latest=versions[0],
            card=row.card,
            gates=GATES.validate_python(row.gates),
            revision=row.revision,
            versions=versions,
        )


class ModelChange(BaseModel):
    """What is left out stays; null takes back what people wrote."""

    model_config = ConfigDict(extra="forbid")

    display_name: Line | None = None
    task: Line = Field(default="text-generation", description="as Hugging Face's hub names them")
    visibility: Literal["project", "installation"] = "project"
    licence: Line | None = Field(default=None, description="an SPDX identifier, or what the base's card says")
    card: Text | None = Field(default=None, description="markdown; the facts are generated around it")
    tags: Annotated[list[Tag], Field(max_length=64)] = Field(default=[], description="sorted, each once")
    gates: Gates = Field(default={}, description="by alias: what moving it asks for")

    def changes(self) -> dict[str, Any]:
        """Only what was sent."""
        sent = self.model_dump(mode="json", include=self.model_fields_set)
        if "tags" in sent:
            sent["tags"] = sorted(set(sent["tags"]))
        return sent


class ModelDeleted(BaseModel):
    id: str = Field(examples=["name-qsft@1"])
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


def facts(row: registry.Model, aliases: dict[str, int]) -> dict[str, Any]:
    return {
        "id": row.name,
        "created": unix(row.created_at),
        "base_model": row.base_model,
        "display_name": row.display_name,
        "task": row.task,
        "visibility": row.visibility,
        "licence": row.licence,
        "tags": row.tags,
        "aliases": aliases,
    }
