"""What models can be filtered by."""

from typing import Literal, Self

from bitsmith_core.registry.facets import Count, Facets, Span
from pydantic import BaseModel, Field


class FacetValue(BaseModel):
    value: str = Field(description="as the filter takes it")
    count: int = Field(description="models that would be left with it, all other filters kept")
    label: str | None = Field(description="how people call it: a file's name; null where the value says it")

    @classmethod
    def of(cls, found: Count) -> Self:
        return cls(value=found.value, count=found.count, label=found.label)


class FacetRange(BaseModel):
    min: float
    max: float

    @classmethod
    def of(cls, found: Span | None) -> Self | None:
        return None if found is None else cls(min=found.least, max=found.most)


class TaskRange(FacetRange):
    metric: str
    n: int = Field(description="models with a score in it")
    higher_is_better: bool


class ModelFacets(BaseModel):
    """The counts and ranges of a facet ignore the facet's own filter and keep all others."""

    object: Literal["model.facets"] = "model.facets"
    total: int = Field(description="models that meet every filter")
    base_model: list[FacetValue] = Field(description="of this and the next six: the most frequent first")
    scheme: list[FacetValue]
    method: list[FacetValue]
    task: list[FacetValue]
    licence: list[FacetValue]
    tag: list[FacetValue]
    dataset: list[FacetValue]
    bpw: FacetRange | None = Field(description="`bpw_effective`; null: no model has it")
    size_bytes: FacetRange | None = Field(description="`weights_bytes`")
    created_at: FacetRange | None = Field(description="unix seconds")
    scores: dict[str, TaskRange] = Field(description="by task, of the newest versions' newest evaluations")

    @classmethod
    def of(cls, found: Facets) -> Self:
        return cls(
            total=found.total,
            **{facet: [FacetValue.of(each) for each in counts] for facet, counts in found.values.items()},  # type: ignore[arg-type]  # by name
            bpw=FacetRange.of(found.ranges.get("bpw")),
            size_bytes=FacetRange.of(found.ranges.get("size_bytes")),
            created_at=FacetRange.of(found.ranges.get("created_at")),
            scores={
                task: TaskRange(
                    min=span.least,
                    max=span.most,
                    metric=span.metric,
                    n=span.n,
                    higher_is_better=span.higher_is_better,
                )
                for task, span in found.scores.items()
            },
        )
