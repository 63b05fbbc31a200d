"""Who did what to what, in the caller's project."""

import re
from datetime import UTC, datetime
from typing import Annotated

from bitsmith_core.delivery import audit
from fastapi import APIRouter, Query

from bitsmith_api.deps import Bounds, FromCaller, Transaction, checked_cursor, require
from bitsmith_api.errors import documented
from bitsmith_api.schemas.identity import AuditEvent, AuditEventList

router = APIRouter(prefix="/v1/audit_events", tags=["Audit"])

_LAST_SECOND = 2**33


@router.get(
    "", summary="List audit events", dependencies=[require("audit:read")], responses=documented(401, 422, 500, 503)
)
def list_audit_events(
    bounds: Bounds,
    caller: FromCaller,
    tx: Transaction,
    actor: Annotated[str | None, Query(description="a key's id, or `bootstrap`", max_length=200)] = None,
    action: Annotated[str | None, Query(examples=["job.cancelled"], max_length=200)] = None,
    target: Annotated[str | None, Query(description="the id of what it was done to", max_length=300)] = None,
    since: Annotated[int | None, Query(alias="created_at[gte]", ge=0, lt=_LAST_SECOND)] = None,
    until: Annotated[int | None, Query(alias="created_at[lte]", ge=0, lt=_LAST_SECOND)] = None,
) -> AuditEventList:
    """Newest first. Every request that changed something, and nothing that was refused."""
    after = checked_cursor(bounds.after, _is_event_id, what="the id of an audit event")
    found = audit.page(
        tx,
        project=caller.project,
        limit=bounds.limit + 1,
        after=int(after.removeprefix("audit-")) if after else None,
        actor=_text(actor),
        action=_text(action),
        target=_text(target),
        since=_time(since),
        until=_time(until),
    )
    return AuditEventList.of([AuditEvent.of(row) for row in found], limit=bounds.limit)


def _is_event_id(text: str) -> bool:
    return re.fullmatch(r"audit-[1-9][0-9]{0,17}", text) is not None


def _text(sent: str | None) -> str | None:
    """Postgres knows no NUL; nothing is called so either."""
    return None if sent is None else sent.replace("\0", "\ufffd")


def _time(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
