"""Where projects want to hear of what happens, and the events written for them.

An event is a row for each webhook that wants it, written in the transaction that it tells of: it exists if and only if
that happened. `deliveries` says how it gets out. It is thin, as OpenAI's are: it names the thing, and whoever wants to
know more asks the API, with a key.
"""

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import func, or_, select, update

from bitsmith_core.clock import utc_now
from bitsmith_core.db import Tx
from bitsmith_core.db.models import Webhook, WebhookDelivery
from bitsmith_core.errors import Conflict, NotFound
from bitsmith_core.ids import ProjectId, WebhookId, new_delivery_id, new_webhook_event_id, new_webhook_id

__all__ = [
    "EventType",
    "Webhook",
    "belongs_to",
    "change",
    "create",
    "delete",
    "emit",
    "forget_previous_secrets",
    "get",
    "page",
    "ping",
    "replace_secret",
]

MAX_WEBHOOKS = 50  # of one project: each costs a row for every event
BOTH_SIGN_FOR = timedelta(hours=24)  # the secret that was replaced beside the new one


class EventType(StrEnum):
    JOB_SUCCEEDED = "fine_tuning.job.succeeded"
    JOB_FAILED = "fine_tuning.job.failed"
    JOB_CANCELLED = "fine_tuning.job.cancelled"
    JOB_PAUSED = "fine_tuning.job.paused"
    VERSION_PUBLISHED = "model.version.published"


PING = "webhook.ping"  # asked for by hand, to see whether a webhook works


def emit(tx: Tx, *, project: ProjectId, type: EventType, target: str) -> None:
    """Tell the project's webhooks that want it that this happened to `target`, an id."""
    wants_it = or_(Webhook.events == [], Webhook.events.contains([type]))
    query = select(Webhook.id).where(Webhook.project_id == project, Webhook.is_enabled, wants_it)
    payload = _payload(type, target)
    # Held, so that a webhook which is disabled meanwhile either gets no event or has this one ended with the others.
    for webhook_id in tx.scalars(query.order_by(Webhook.id).with_for_update(read=True)):
        tx.add(WebhookDelivery(id=new_delivery_id(), webhook_id=webhook_id, type=type, payload=payload))


def ping(tx: Tx, webhook_id: WebhookId) -> WebhookDelivery:
    """An event about the webhook itself, for it alone.

    Raises:
        Conflict: it is not enabled, so nothing is sent to it.
    """
    if not get(tx, webhook_id).is_enabled:
        raise Conflict(f"webhook {webhook_id} is not enabled; enable it first")
    delivery = WebhookDelivery(
        id=new_delivery_id(), webhook_id=webhook_id, type=PING, payload=_payload(PING, webhook_id)
    )
    tx.add(delivery)
    tx.flush()
    tx.refresh(delivery)
    return delivery


def create(tx: Tx, *, project: ProjectId, url: str, events: Sequence[EventType] = ()) -> Webhook:
    """
    Args:
        url: checked by egress.target.
        events: those it wants; all if empty.

    Raises:
        Conflict: the project has as many as it may.
    """
    count = tx.scalar(select(func.count()).where(Webhook.project_id == project)) or 0
    if count >= MAX_WEBHOOKS:
        raise Conflict(f"project {project} has {count} webhooks and may have {MAX_WEBHOOKS}; delete one first")
    webhook = Webhook(
        id=new_webhook_id(), project_id=project, url=url, events=sorted(set(events)), secret=_new_secret()
    )
    tx.add(webhook)
    tx.flush()
    tx.refresh(webhook)
    return webhook


def belongs_to(tx: Tx, webhook_id: WebhookId, project: ProjectId) -> bool:
    """Whether the webhook exists, for this project."""
    row = tx.get(Webhook, webhook_id)
    return row is not None and row.project_id == project


def get(tx: Tx, webhook_id: WebhookId) -> Webhook:
    row = tx.get(Webhook, webhook_id)
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id}")
    return row


def page(tx: Tx, *, project: ProjectId, limit: int, after: WebhookId | None = None) -> list[Webhook]:
    """Newest first."""
    query = select(Webhook).where(Webhook.project_id == project).order_by(Webhook.id.desc()).limit(limit)
    return list(tx.scalars(query.where(Webhook.id < after) if after is not None else query))


def change(
    tx: Tx,
    webhook_id: WebhookId,
    *,
    url: str | None = None,
    events: Sequence[EventType] | None = None,
    is_enabled: bool | None = None,
) -> Webhook:
    """None leaves it as it is. What happened while it was not enabled is not sent afterwards.

    Raises:
        NotFound: there is no such webhook.
    """
    webhook = _locked(tx, webhook_id)
    webhook.url = webhook.url if url is None else url
    webhook.events = webhook.events if events is None else sorted(set(events))
    if is_enabled is not None and is_enabled != webhook.is_enabled:
        webhook.is_enabled, webhook.failures = is_enabled, 0
    tx.flush()
    if not webhook.is_enabled:
        drop_pending(tx, webhook_id, "the webhook was disabled")
    return webhook


def replace_secret(tx: Tx, webhook_id: WebhookId) -> Webhook:
    """From now on everything is signed with the new one, and for a while with the one before, too.

    So that a receiver may change over when it likes. Replacing it twice ends the old one at once.
    """
    webhook = _locked(tx, webhook_id)
    webhook.previous_secret, webhook.secret = webhook.secret, _new_secret()
    webhook.previous_secret_until = func.now() + BOTH_SIGN_FOR
    tx.flush()
    return webhook


def forget_previous_secrets(tx: Tx) -> None:
    """Those that no longer sign."""
    over = update(Webhook).where(Webhook.previous_secret_until <= func.now())
    tx.execute(
        over.values(previous_secret=None, previous_secret_until=None).execution_options(synchronize_session=False)
    )


def delete(tx: Tx, webhook_id: WebhookId) -> None:
    """With its deliveries; those that are due are not sent."""
    tx.delete(_locked(tx, webhook_id))
    tx.flush()


def drop_pending(tx: Tx, webhook_id: WebhookId, why: str) -> None:
    """Nothing that waits is sent. The caller holds the webhook."""
    waiting = update(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.status == "pending"
    )
    tx.execute(waiting.values(status="failed", error=why).execution_options(synchronize_session=False))


def _locked(tx: Tx, webhook_id: WebhookId) -> Webhook:
    row = tx.scalar(select(Webhook).where(Webhook.id == webhook_id).with_for_update())
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id}")
    return row


def _payload(type: str, target: str) -> dict[str, Any]:
    return {
        "id": new_webhook_event_id(),
        "object": "event",
        "type": type,
        "created_at": int(utc_now().timestamp()),
        "data": {"id": target},
    }


def _new_secret() -> str:
    """Standard Webhooks: 24 to 64 random bytes, base64, with a prefix that secret scanners know."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
