"""Events on their way to webhooks: what is due, how it went, and when it is tried again.

At least once: whoever sends takes a delivery for a while, sends it outside of any transaction, and says how it went. If
it never says so, the delivery is due again. `attempts` is the fencing token: what a sender says of an attempt that is
no longer the last one changes nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import and_, case, delete, func, select, union_all, update
from sqlalchemy.dialects.postgresql import distinct_on

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Webhook, WebhookDelivery
from bitsmith_core.delivery.webhooks import drop_pending
from bitsmith_core.errors import Conflict, NotFound
from bitsmith_core.ids import DeliveryId, WebhookId

__all__ = [
    "Due", "Status", "WebhookDelivery", "belongs_to", "counts", "delivered", "failed", "get", "gone",
    "oldest_due_seconds", "page", "prune", "replay", "take",
]  # fmt: skip

DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 60, 5 * 60, 30 * 60, 2 * 3600, 6 * 3600, 16 * 3600, 24 * 3600, 24 * 3600)
)
"""Before each further attempt: ten attempts over three days."""

LATELY = timedelta(hours=1)  # what whoever watches deliveries is told of
MAX_ERROR = 500  # characters

Status = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What a sender needs of one delivery."""

    id: DeliveryId
    webhook_id: WebhookId
    attempt: int  # from 1
    url: str
    secrets: tuple[str, ...]  # each of them signs
    type: str
    payload: dict[str, Any]


def take(tx: Tx, *, limit: int, lease: timedelta, busy: Collection[WebhookId] = ()) -> list[Due]:
    """Due deliveries, one of each webhook, for this sender alone until the lease is over.

    Args:
        busy: webhooks that this sender is sending to already; a slow one keeps one of its hands and not all of them.
    """
    first_of_each = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.status == "pending",
            WebhookDelivery.next_attempt_at <= func.now(),
            WebhookDelivery.webhook_id.not_in(busy),
        )
        .ext(distinct_on(WebhookDelivery.webhook_id))
        .order_by(WebhookDelivery.webhook_id, WebhookDelivery.next_attempt_at)
    )
    mine = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.id.in_(first_of_each),
            WebhookDelivery.status == "pending",  # again: another sender may have had it until a moment ago
            WebhookDelivery.next_attempt_at <= func.now(),
        )
        .order_by(WebhookDelivery.next_attempt_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(mine), Webhook.id == WebhookDelivery.webhook_id)
        .values(attempts=WebhookDelivery.attempts + 1, next_attempt_at=func.now() + lease)
        .returning(
            WebhookDelivery.id,
            WebhookDelivery.webhook_id,
            WebhookDelivery.attempts,
            Webhook.url,
            WebhookDelivery.type,
            WebhookDelivery.payload,
            Webhook.secret,
            case((Webhook.previous_secret_until > func.now(), Webhook.previous_secret)),
        )
        .execution_options(synchronize_session=False)
    )
    return [
        Due(
            id=id_,
            webhook_id=webhook_id,
            attempt=attempt,
            url=url,
            secrets=tuple(secret for secret in secrets if secret is not None),
            type=type_,
            payload=payload,
        )
        for id_, webhook_id, attempt, url, type_, payload, *secrets in tx.execute(taken)
    ]


def delivered(tx: Tx, due: Due, *, response_status: int) -> None:
    """The receiver has it."""
    said = _say(tx, due, status="delivered", response_status=response_status, error=None, delivered_at=func.now())
    if said:
        tx.execute(update(Webhook).where(Webhook.id == due.webhook_id, Webhook.failures > 0).values(failures=0))


def failed(tx: Tx, due: Due, *, error: str, response_status: int | None = None) -> Literal["again", "over", "disabled"]:
    """It did not arrive: it is tried again after a while, or never.

    A webhook that took nothing in all the time that a delivery was tried is not sent to any more.
    """
    facts: dict[str, Any] = {"response_status": response_status, "error": error.replace("\0", "")[:MAX_ERROR]}
    is_last = due.attempt > len(DELAYS)
    if is_last:
        facts["status"] = "failed"
    else:
        facts["next_attempt_at"] = func.now() + DELAYS[due.attempt - 1]
    if not _say(tx, due, **facts):
        return "over"
    tx.execute(update(Webhook).where(Webhook.id == due.webhook_id).values(failures=Webhook.failures + 1))
    if not is_last:
        return "again"
    if _has_taken_anything_since(tx, due):
        return "over"
    _disable(tx, due.webhook_id, "the webhook took nothing for three days and was disabled")
    return "disabled"


def gone(tx: Tx, due: Due, *, response_status: int) -> None:
    """The receiver says that it wants no more events, ever (Standard Webhooks: 410)."""
    if _say(tx, due, status="failed", response_status=response_status, error="the receiver answered 410 Gone"):
        _disable(tx, due.webhook_id, "the receiver answered 410 Gone, and the webhook was disabled")


def belongs_to(tx: Tx, delivery_id: DeliveryId, webhook_id: WebhookId) -> bool:
    row = tx.get(WebhookDelivery, delivery_id)
    return row is not None and row.webhook_id == webhook_id


def get(tx: Tx, delivery_id: DeliveryId) -> WebhookDelivery:
    row = tx.get(WebhookDelivery, delivery_id)
    if row is None:
        raise NotFound(f"there is no delivery {delivery_id}")
    return row


def page(
    tx: Tx, webhook_id: WebhookId, *, limit: int, after: DeliveryId | None = None, status: Status | None = None
) -> list[WebhookDelivery]:
    """Newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if after is not None:
        query = query.where(WebhookDelivery.id < after)
    if status is not None:
        query = query.where(WebhookDelivery.status == status)
    return list(tx.scalars(query.order_by(WebhookDelivery.id.desc()).limit(limit)))


def replay(tx: Tx, delivery_id: DeliveryId) -> WebhookDelivery:
    """Send it again now, with the same id, and as patiently as the first time.

    Raises:
        NotFound: there is no such delivery.
        Conflict: its webhook is not enabled.
    """
    row = get(tx, delivery_id)
    is_enabled = select(Webhook.is_enabled).where(Webhook.id == row.webhook_id)
    if not tx.scalar(is_enabled.with_for_update(read=True)):
        raise Conflict(f"webhook {row.webhook_id} is not enabled; enable it first")
    tx.refresh(row, with_for_update=True)
    row.status, row.attempts, row.error = "pending", 0, None
    row.next_attempt_at = func.now()
    tx.flush()
    tx.refresh(row)
    return row


def prune(tx: Tx, *, older_than: timedelta) -> int:
    """Forget deliveries that were made so long ago and are over; answers how many."""
    old = delete(WebhookDelivery).where(
        WebhookDelivery.status != "pending", WebhookDelivery.created_at < func.now() - older_than
    )
    return len(tx.scalars(old.returning(WebhookDelivery.id)).all())


def counts(tx: Tx) -> dict[str, int]:
    """Deliveries by status: all that are pending, and of those of the last hour the others."""
    is_pending = WebhookDelivery.status == "pending"
    is_over_lately = and_(~is_pending, WebhookDelivery.created_at > func.now() - LATELY)
    parts = (
        select(WebhookDelivery.status, func.count()).where(part).group_by(WebhookDelivery.status)
        for part in (is_pending, is_over_lately)
    )
    return dict(tx.execute(union_all(*parts)).all())


def oldest_due_seconds(tx: Tx) -> float:
    """For how long the most overdue one has been due; 0 without one."""
    query = select(func.extract("epoch", func.now() - func.min(WebhookDelivery.next_attempt_at)))
    return max(0.0, float(tx.scalar(query.where(WebhookDelivery.status == "pending")) or 0))


def _say(tx: Tx, due: Due, **facts: Any) -> bool:
    """Whether this attempt is still the last one of a delivery that is not over."""
    # The webhook first, as everybody does: two that lock in different orders wait for each other forever.
    tx.execute(select(Webhook.id).where(Webhook.id == due.webhook_id).with_for_update())
    said = (
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == due.id,
            WebhookDelivery.attempts == due.attempt,
            WebhookDelivery.status == "pending",
        )
        .values(**facts)
        .returning(WebhookDelivery.id)
        .execution_options(synchronize_session=False)
    )
    return tx.scalar(said) is not None


def _has_taken_anything_since(tx: Tx, due: Due) -> bool:
    tried_since = select(WebhookDelivery.created_at).where(WebhookDelivery.id == due.id).scalar_subquery()
    query = select(WebhookDelivery.id).where(
        WebhookDelivery.webhook_id == due.webhook_id, WebhookDelivery.delivered_at >= tried_since
    )
    return tx.scalar(query.limit(1)) is not None


def _disable(tx: Tx, webhook_id: WebhookId, why: str) -> None:
    tx.execute(update(Webhook).where(Webhook.id == webhook_id).values(is_enabled=False))
    drop_pending(tx, webhook_id, why)
