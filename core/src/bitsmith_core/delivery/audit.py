"""Who did what to what: rows that outlive their objects."""

from typing import Any

from bitsmith_core.db import Tx
from bitsmith_core.db.models import AuditEvent
from bitsmith_core.ids import ProjectId


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
