"""What the registry answers besides models and versions."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from bitsmith_client.sdk.answers import Moment


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class FacetValue(_Answer):
    value: str
    count: int
    label: str | None = None


class FacetRange(_Answer):
    min: float
    max: float


class TaskRange(FacetRange):
    metric: str
    n: int
    higher_is_better: bool


class Facets(_Answer):
    total: int
    base_model: list[FacetValue] = Field(default_factory=list)
    scheme: list[FacetValue] = Field(default_factory=list)
    method: list[FacetValue] = Field(default_factory=list)
    task: list[FacetValue] = Field(default_factory=list)
    licence: list[FacetValue] = Field(default_factory=list)
    tag: list[FacetValue] = Field(default_factory=list)
    dataset: list[FacetValue] = Field(default_factory=list)
    bpw: FacetRange | None = None
    size_bytes: FacetRange | None = None
    created_at: FacetRange | None = None
    scores: dict[str, TaskRange] = Field(default_factory=dict)


class Alias(_Answer):
    id: str
    alias: str
    version: int
    revision: int
    updated_at: Moment
    updated_by: str | None = None


class AliasVerdict(_Answer):
    """What a move would meet."""

    id: str
    from_version: int | None = None
    to_version: int
    passed: bool
    gate: dict[str, Any] | None = None


class AliasMove(_Answer):
    id: str
    from_version: int | None = None  # None: it was made
    to_version: int | None = None  # None: it was taken away
    actor: str | None = None
    reason: str | None = None
    gate: dict[str, Any] | None = None
    created_at: Moment


class LineageNode(_Answer):
    id: str
    kind: str
    label: str
    href: str | None = None


class LineageEdge(_Answer):
    source: str = Field(alias="from")
    target: str = Field(alias="to")
    kind: str


class Lineage(_Answer):
    nodes: list[LineageNode]
    edges: list[LineageEdge]


class TaskComparison(_Answer):
    task: str
    metric: str
    unit: str = ""
    higher_is_better: bool
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    stderr: float | None = None
    p_value: float | None = None
    n: int | None = None
    significant: bool = False
    verdict: str
    reason: str | None = None


class Comparison(_Answer):
    a: str
    b: str
    confidence: float
    tasks: list[TaskComparison]
