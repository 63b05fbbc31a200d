"""How much a project may have: the installation's limits, and the project's own over them.

Counting and adding must not be torn apart by another request of the same project, so each check takes the project's
lock until the transaction ends: check last, just before what it is for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy import func, select, text

from bitsmith_core.db import Tx
from bitsmith_core.db.models import OPEN_STATUSES, Job, Project, ProjectStorage, Upload
from bitsmith_core.errors import QuotaExceeded
from bitsmith_core.ids import ProjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    requests_per_minute: int  # of each key
    open_jobs: int  # queued, running or paused
    storage_bytes: int  # of files, and of uploads under way


def effective(own: Mapping[str, Any], installation: Limits) -> Limits:
    """The project's own where it has one. Pure."""
    names = [field.name for field in fields(Limits)]
    return replace(installation, **{name: own[name] for name in names if own.get(name) is not None})


def check_open_jobs(tx: Tx, *, project: ProjectId, installation: Limits) -> None:
    """There is room for one more job.

    Raises:
        QuotaExceeded: the project has as many open jobs as it may.
    """
    _alone(tx, project, "jobs")
    limit = _of(tx, project, installation).open_jobs
    count = tx.scalar(select(func.count()).where(Job.project_id == project, Job.status.in_(OPEN_STATUSES))) or 0
    if count >= limit:
        raise QuotaExceeded(
            f"project {project} has {count} jobs that are not over and may have {limit}; "
            "wait for one to end, or cancel one"
        )


def check_storage(tx: Tx, *, project: ProjectId, more_bytes: int, installation: Limits) -> None:
    """There is room for this many bytes more.

    Raises:
        QuotaExceeded: files, and uploads under way, would take more than the project may.
    """
    _alone(tx, project, "storage")
    limit = _of(tx, project, installation).storage_bytes
    used_bytes = stored_bytes(tx, project=project)
    if used_bytes + more_bytes > limit:
        raise QuotaExceeded(
            f"project {project} stores {used_bytes} bytes and may store {limit}: there is no room for {more_bytes} "
            "more; delete files that no job needs"
        )


def stored_bytes(tx: Tx, *, project: ProjectId) -> int:
    """Files, and what uploads under way announced."""
    files = select(ProjectStorage.bytes).where(ProjectStorage.project_id == project)
    uploads = select(func.coalesce(func.sum(Upload.bytes), 0)).where(
        Upload.project_id == project, Upload.status == "pending", Upload.expires_at > func.now()
    )
    return int(tx.scalar(files) or 0) + int(tx.scalar(uploads) or 0)


def _of(tx: Tx, project: ProjectId, installation: Limits) -> Limits:
    own = tx.scalar(select(Project.limits).where(Project.id == project))
    return effective(own or {}, installation)


def _alone(tx: Tx, project: ProjectId, what: str) -> None:
    """Until the transaction ends. Not a lock on the project's row: the scheduler charges the project there."""
    tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"limits/{what}/{project}"})
