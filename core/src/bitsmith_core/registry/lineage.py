"""What a version came from, and what came from it: base, data, job, exports, evaluations."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Eval, File, Job, Model, Version, VersionFile
from bitsmith_core.ids import FileId, ProjectId
from bitsmith_core.registry import lookup

Kind = Literal["base", "dataset", "job", "version", "export", "eval"]
Relation = Literal["base_of", "training_data", "validation_data", "published", "exported_as", "measured_by", "ran"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    id: str
    kind: Kind
    label: str
    is_there: bool = True  # False: it was deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    source: str
    target: str
    kind: Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Edges point from what was there first; nodes come in that order."""

    nodes: list[Node]
    edges: list[Edge]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A version, and all that its rows say of where it belongs."""

    version: str  # name@1
    base_model: str
    job: Job
    exports: list[str]  # folders of the bundle
    evals: list[Eval]  # oldest first


def of_version(tx: Tx, name: str, number: int, *, project: ProjectId) -> Graph:
    """
    Raises:
        NotFound: there is no such model or version that the project may read.
    """
    owner = lookup.model(tx, name, project=project)
    made = _made(tx, owner, lookup.number_of(tx, owner, number))
    return graph(made, files=_names(tx, _data(made.job)))


def graph(made: Made, *, files: dict[FileId, str]) -> Graph:
    """Pure.

    Args:
        files: names of those data files that are still there.
    """
    job = made.job
    nodes = [Node(id=made.base_model, kind="base", label=made.base_model)]
    edges = [Edge(source=made.base_model, target=job.id, kind="base_of")]
    for file, relation in _data(job):
        nodes.append(Node(id=file, kind="dataset", label=files.get(file, file), is_there=file in files))
        edges.append(Edge(source=file, target=job.id, kind=relation))
    nodes += [
        Node(id=job.id, kind="job", label=str(job.spec.get("method", {}).get("type", job.id))),
        Node(id=made.version, kind="version", label=made.version),
    ]
    edges.append(Edge(source=job.id, target=made.version, kind="published"))
    for folder in made.exports:
        nodes.append(Node(id=f"{made.version}/{folder}", kind="export", label=folder))
        edges.append(Edge(source=made.version, target=f"{made.version}/{folder}", kind="exported_as"))
    for evaluation in made.evals:
        nodes.append(Node(id=evaluation.id, kind="eval", label=evaluation.created_at.date().isoformat()))
        edges.append(Edge(source=made.version, target=evaluation.id, kind="measured_by"))
        if evaluation.job_id != job.id:
            nodes.append(Node(id=evaluation.job_id, kind="job", label="evaluate"))
            edges.append(Edge(source=evaluation.job_id, target=evaluation.id, kind="ran"))
    return Graph(nodes=nodes, edges=edges)


def _data(job: Job) -> list[tuple[FileId, Relation]]:
    found: list[tuple[FileId, Relation]] = []
    if job.training_file is not None:
        found.append((job.training_file, "training_data"))
    if job.validation_file is not None:
        found.append((job.validation_file, "validation_data"))
    return found


def _made(tx: Tx, owner: Model, number: int) -> Made:
    its_version = (Version.model_id == owner.id) & (Version.number == number)
    version_id, job = tx.execute(select(Version.id, Job).join(Job, Job.id == Version.job_id).where(its_version)).one()
    folder = func.split_part(VersionFile.path, "/", 1)
    inside = select(folder).distinct().where(VersionFile.version_id == version_id, VersionFile.path.contains("/"))
    return Made(
        version=f"{owner.name}@{number}",
        base_model=job.base_model,
        job=job,
        exports=sorted(tx.scalars(inside)),
        evals=list(lookup.evals_of(tx, version_id)),
    )


def _names(tx: Tx, data: Iterable[tuple[FileId, Relation]]) -> dict[FileId, str]:
    ids = [file for file, _ in data]
    return dict(tx.execute(select(File.id, File.filename).where(File.id.in_(ids), File.deleted_at.is_(None))).all())
