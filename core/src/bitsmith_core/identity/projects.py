"""Projects: what owns everything else, and the limits that are its own."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from bitsmith_core.db import Tx
from bitsmith_core.db.models import OPEN_STATUSES, Job, Project
from bitsmith_core.errors import Conflict, NotFound
from bitsmith_core.ids import DEFAULT_PROJECT, ProjectId, new_project_id

__all__ = ["Project", "archive", "change", "create", "get", "page", "restore"]


def create(tx: Tx, *, name: str, limits: dict[str, Any] | None = None, weight: float = 1.0) -> Project:
    """
    Args:
        limits: over the installation's, see identity.limits.
        weight: of its share of the GPUs; twice the weight, twice the share.

    Raises:
        Conflict: another project has this name.
    """
    row = insert(Project).values(id=new_project_id(), name=name, limits=limits or {}, weight=weight)
    created: Project | None = tx.scalar(row.on_conflict_do_nothing(index_elements=[Project.name]).returning(Project))
    if created is None:
        raise _taken(name)
    return created


def get(tx: Tx, project: ProjectId) -> Project:
    found = tx.get(Project, project)
    if found is None:
        raise NotFound(f"there is no project {project}")
    return found


def page(tx: Tx, *, limit: int, after: ProjectId | None = None) -> list[Project]:
    """Newest first, archived ones too."""
    query = select(Project).order_by(Project.id.desc()).limit(limit)
    return list(tx.scalars(query.where(Project.id < after) if after is not None else query))


def change(
    tx: Tx,
    project: ProjectId,
    *,
    name: str | None = None,
    limits: dict[str, Any] | None = None,
    weight: float | None = None,
) -> Project:
    """None leaves it as it is; limits replace the project's as a whole.

    Raises:
        NotFound: there is no such project.
        Conflict: another project has this name.
    """
    found = _locked(tx, project)
    if name is not None and name != found.name:
        if tx.scalar(select(Project.id).where(Project.name == name)) is not None:
            raise _taken(name)
        found.name = name
    found.limits = found.limits if limits is None else limits
    found.weight = found.weight if weight is None else weight
    tx.flush()
    return found


def archive(tx: Tx, project: ProjectId) -> Project:
    """Its keys let nobody in any more; what it owns stays. Archiving again is fine.

    Raises:
        NotFound: there is no such project.
        Conflict: it is the default project, or has jobs that are not over.
    """
    found = _locked(tx, project)
    if project == DEFAULT_PROJECT:
        raise Conflict("the default project cannot be archived")
    open_jobs = tx.scalar(select(func.count()).where(Job.project_id == project, Job.status.in_(OPEN_STATUSES)))
    if open_jobs:
        raise Conflict(f"project {project} has {open_jobs} jobs that are not over; cancel them first")
    found.archived_at = found.archived_at or func.now()  # the database's clock
    tx.flush()
    tx.refresh(found)
    return found


def restore(tx: Tx, project: ProjectId) -> Project:
    """Take it out of the archive; its keys work again."""
    found = _locked(tx, project)
    found.archived_at = None
    tx.flush()
    return found


def _locked(tx: Tx, project: ProjectId) -> Project:
    # No key lock: what is inserted for the project meanwhile need not wait.
    found = tx.scalar(select(Project).where(Project.id == project).with_for_update(key_share=True))
    if found is None:
        raise NotFound(f"there is no project {project}")
    return found


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a project called {name!r} already")
