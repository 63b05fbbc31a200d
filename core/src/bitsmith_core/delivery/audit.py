"""Who did what to what: rows that outlive their objects."""

from datetime import datetime
from typing import Any

from sqlalchemy import select

from bitsmith_core.db import Tx
from bitsmith_core.db.models import AuditEvent
from bitsmith_core.ids import ProjectId

__all__ = ["AuditEvent", "note", "page"]


def note(
    tx: Tx,
    *,
    project: ProjectId,
    actor: str,
    action: str,
    target: str,
    request_id: str | None = None,
    address: str | None = None,
    **data: Any,
) -> None:
    """Remember an action in the transaction that does it.

    Args:
        actor: a key id, or "bootstrap".
        action: what was done to what kind of thing, such as "file.deleted".
        target: the thing's id.
    """
    tx.add(
        AuditEvent(
            project_id=project,
            actor=actor,
            action=action,
            target=target,
            data=data,
            request_id=request_id,
            address=address,
        )
    )


def page(
    tx: Tx,
    *,
    project: ProjectId,
    limit: int,
    after: int | None = None,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[AuditEvent]:
    """Newest first; `after` is the number of the last one seen, `since` and `until` are inclusive."""
    query = select(AuditEvent).where(AuditEvent.project_id == project).order_by(AuditEvent.id.desc()).limit(limit)
    if after is not None:
        query = query.where(AuditEvent.id < after)
    for column, value in ((AuditEvent.actor, actor), (AuditEvent.action, action), (AuditEvent.target, target)):
        if value is not None:
            query = query.where(column == value)
    if since is not None:
        query = query.where(AuditEvent.created_at >= since)
    if until is not None:
        query = query.where(AuditEvent.created_at <= until)
    return list(tx.scalars(query))
