"""What must be told outside, written in the transaction that causes it; the scheduler's relay sends it after."""

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, update

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Outbox

JOB_OFFERED = "job.offered"  # payload: {"job_id", "traceparent", "pool"}; goes to the broker


def put(tx: Tx, topic: str, payload: dict[str, Any]) -> None:
    tx.add(Outbox(topic=topic, payload=payload))


def unsent(tx: Tx, *, limit: int) -> list[Outbox]:
    """Oldest first; locked, so that two relays never hold the same row."""
    query = select(Outbox).where(Outbox.sent_at.is_(None)).order_by(Outbox.id).limit(limit)
    return list(tx.scalars(query.with_for_update(skip_locked=True)))


def mark_sent(tx: Tx, row_id: int) -> None:
    tx.execute(update(Outbox).where(Outbox.id == row_id).values(sent_at=func.now()))


def prune(tx: Tx, *, older_than: timedelta) -> int:
    """Forget rows that were sent so long ago; answers how many."""
    forgotten = delete(Outbox).where(Outbox.sent_at < func.now() - older_than).returning(Outbox.id)
    return len(tx.scalars(forgotten).all())
