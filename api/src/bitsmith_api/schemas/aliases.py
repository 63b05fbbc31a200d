"""Aliases: names that point at a version of a model, and where they pointed before."""

from typing import Annotated, Any, Literal, Self

from bitsmith_core import registry
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix

_WHICH = r"^([1-9][0-9]{0,8}|[a-z][a-z0-9_-]{0,62})$"


class AliasChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1, lt=10**9)] | Annotated[str, StringConstraints(pattern=_WHICH)] = Field(
        description="number of the version, or another alias of the model that points at it"
    )
    reason: Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00]*$")] | None = Field(
        default=None, description="kept in the alias' history"
    )
    dry_run: bool = Field(default=False, description="judge the gate and answer with what it found; move nothing")


class Alias(BaseModel):
    id: str = Field(description="name@alias", examples=["name-qsft@prod"])
    object: Literal["model.alias"] = "model.alias"
    model: str
    alias: str
    version: int
    revision: int = Field(description="the ETag")
    updated_at: UnixSeconds
    updated_by: str | None = Field(description="id of the API key, or bootstrap")

    @classmethod
    def of(cls, name: str, row: registry.Alias) -> Self:
        return cls(
            id=f"{name}@{row.name}",
            model=name,
            alias=row.name,
            version=row.number,
            revision=row.revision,
            updated_at=unix(row.updated_at),
            updated_by=row.updated_by,
        )


class AliasList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Alias]


class AliasVerdict(BaseModel):
    """What a move would meet; nothing was moved."""

    id: str = Field(examples=["name-qsft@prod"])
    object: Literal["model.alias.verdict"] = "model.alias.verdict"
    dry_run: Literal[True] = True
    from_version: int | None = Field(description="null: it would be made")
    to_version: int
    gate: dict[str, Any] | None = Field(description="what the gate found; null: there is none")
    passed: bool


class AliasMove(Listed):
    id: str = Field(description="of the move, for paging")
    object: Literal["model.alias.move"] = "model.alias.move"
    alias: str
    from_version: int | None = Field(description="null: it was made")
    to_version: int | None = Field(description="null: it was taken away")
    actor: str | None = Field(description="id of the API key, or bootstrap")
    reason: str | None
    gate: dict[str, Any] | None = Field(description="what the gate found; null: there was none")
    created_at: UnixSeconds

    @classmethod
    def of(cls, row: registry.AliasMove) -> Self:
        return cls(
            id=str(row.id),
            alias=row.alias,
            from_version=row.from_number,
            to_version=row.to_number,
            actor=row.actor,
            reason=row.reason,
            gate=row.gate,
            created_at=unix(row.created_at),
        )


class AliasMoveList(Page[AliasMove]):
    pass


class AliasDeleted(BaseModel):
    id: str = Field(examples=["name-qsft@prod"])
    object: Literal["model.alias"] = "model.alias"
    deleted: Literal[True] = True
