"""What a version came from and what came from it, as a graph."""

from typing import Literal, Self
from urllib.parse import quote

from bitsmith_core.registry.lineage import Graph, Kind, Node, Relation
from pydantic import BaseModel, Field


class LineageNode(BaseModel):
    id: str
    kind: Kind
    label: str = Field(description="for people: a file's name, a job's method, an evaluation's day")
    href: str | None = Field(description="its address in this API; null: it was deleted")

    @classmethod
    def of(cls, node: Node) -> Self:
        return cls(id=node.id, kind=node.kind, label=node.label, href=_href(node) if node.is_there else None)


class LineageEdge(BaseModel):
    from_: str = Field(alias="from", serialization_alias="from")
    to: str
    kind: Relation


class Lineage(BaseModel):
    """Edges point from what was there first."""

    object: Literal["model.version.lineage"] = "model.version.lineage"
    nodes: list[LineageNode]
    edges: list[LineageEdge]

    @classmethod
    def of(cls, found: Graph) -> Self:
        return cls(
            nodes=[LineageNode.of(node) for node in found.nodes],
            edges=[
                LineageEdge.model_validate({"from": edge.source, "to": edge.target, "kind": edge.kind})
                for edge in found.edges
            ],
        )


def _href(node: Node) -> str:
    match node.kind:
        case "base":
            return f"/v1/models?base_model={quote(node.id, safe='')}"
        case "dataset":
            return f"/v1/files/{node.id}"
        case "job":
            return f"/v1/fine_tuning/jobs/{node.id}"
        case "version":
            return _version(node.id)
        case "export":
            return f"{_version(node.id.partition('/')[0])}/files"
        case "eval":
            return f"/v1/evals/{node.id}"


def _version(name: str) -> str:
    model, _, number = name.partition("@")
    return f"/v1/models/{model}/versions/{number}"
