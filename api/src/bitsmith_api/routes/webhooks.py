"""Where the caller's project wants to hear of its events, and what was sent there."""

from typing import Annotated

from bitsmith_core.delivery import deliveries, egress, webhooks
from bitsmith_core.errors import NotFound
from bitsmith_core.ids import DeliveryId, WebhookId, is_delivery_id, is_webhook_id
from fastapi import APIRouter, Depends, Path, Query

from bitsmith_api.deps import Audited, Bounds, FromCaller, SharedServices, Transaction, checked_cursor, require
from bitsmith_api.deps.body import body_schema, json_body
from bitsmith_api.deps.parameters import own
from bitsmith_api.errors import documented
from bitsmith_api.schemas.webhooks import (
    Delivery,
    DeliveryList,
    NewWebhook,
    Webhook,
    WebhookChange,
    WebhookDeleted,
    WebhookList,
    WebhookWithSecret,
)

router = APIRouter(prefix="/v1/webhooks", tags=["Webhooks"], route_class=Audited)
READS, WRITES = [require("webhooks:read")], [require("webhooks:write")]


_webhook = own(
    "webhook_id", what="webhook", example="wh-0kp1p4n3vtsu5qc1q0o8g0a4lk",
    kind=WebhookId, is_id=is_webhook_id, belongs_to=webhooks.belongs_to,
)  # fmt: skip
PathWebhookId = Annotated[WebhookId, Depends(_webhook)]


def _delivery_id(
    delivery_id: Annotated[str, Path(examples=["whd-0kp1p4n3vtsu5qc1q0o8g0a4lk"])],
    webhook_id: PathWebhookId,
    tx: Transaction,
) -> DeliveryId:
    if not is_delivery_id(delivery_id) or not deliveries.belongs_to(tx, DeliveryId(delivery_id), webhook_id):
        raise NotFound(f"webhook {webhook_id} has no delivery {delivery_id}")
    return DeliveryId(delivery_id)


PathDeliveryId = Annotated[DeliveryId, Depends(_delivery_id)]


@router.post(
    "",
    summary="Create a webhook",
    dependencies=WRITES,
    responses=documented(400, 401, 409, 413, 415, 422, 500, 503),
    openapi_extra=body_schema(NewWebhook),
)
def create_webhook(
    new: Annotated[NewWebhook, Depends(json_body(NewWebhook))],
    caller: FromCaller,
    tx: Transaction,
    services: SharedServices,
) -> WebhookWithSecret:
    """From now on events are POSTed there, signed as Standard Webhooks says. The answer shows the secret that signs
    them; nothing else ever will. What is not answered with 2xx within 15 seconds is sent again, at most ten times in
    three days.
    """
    egress.target(new.url, allowed=services.settings.webhooks.allowed_networks)
    return WebhookWithSecret.showing(webhooks.create(tx, project=caller.project, url=new.url, events=new.events))


@router.get("", summary="List webhooks", dependencies=READS, responses=documented(401, 422, 500, 503))
def list_webhooks(bounds: Bounds, caller: FromCaller, tx: Transaction) -> WebhookList:
    """Newest first."""
    after = checked_cursor(bounds.after, is_webhook_id, what="the id of a webhook")
    found = webhooks.page(tx, project=caller.project, limit=bounds.limit + 1, after=WebhookId(after) if after else None)
    return WebhookList.of([Webhook.of(row) for row in found], limit=bounds.limit)


@router.get("/{webhook_id}", summary="Get a webhook", dependencies=READS, responses=documented(401, 404, 500, 503))
def get_webhook(webhook_id: PathWebhookId, tx: Transaction) -> Webhook:
    """Where it leads, what it hears of, and whether it takes it."""
    return Webhook.of(webhooks.get(tx, webhook_id))


@router.patch(
    "/{webhook_id}",
    summary="Change a webhook",
    dependencies=WRITES,
    responses=documented(400, 401, 404, 413, 415, 422, 500, 503),
    openapi_extra=body_schema(WebhookChange),
)
def change_webhook(
    webhook_id: PathWebhookId,
    change: Annotated[WebhookChange, Depends(json_body(WebhookChange))],
    tx: Transaction,
    services: SharedServices,
) -> Webhook:
    """What failed while it was disabled stays failed; replay what is still wanted."""
    if change.url is not None:
        egress.target(change.url, allowed=services.settings.webhooks.allowed_networks)
    changed = webhooks.change(tx, webhook_id, url=change.url, events=change.events, is_enabled=change.enabled)
    return Webhook.of(changed)


@router.delete(
    "/{webhook_id}", summary="Delete a webhook", dependencies=WRITES, responses=documented(401, 404, 500, 503)
)
def delete_webhook(webhook_id: PathWebhookId, tx: Transaction) -> WebhookDeleted:
    """With its deliveries; what waits is not sent."""
    webhooks.delete(tx, webhook_id)
    return WebhookDeleted(id=webhook_id)


@router.post(
    "/{webhook_id}/rotate_secret",
    summary="Replace a webhook's secret",
    dependencies=WRITES,
    responses=documented(401, 404, 500, 503),
)
def rotate_webhook_secret(webhook_id: PathWebhookId, tx: Transaction) -> WebhookWithSecret:
    """For 24 hours everything is signed with both, so that a receiver may change over when it likes; then with the new
    one only. Replace a secret that leaked twice: what it replaced last is all that signs beside the new one.
    """
    return WebhookWithSecret.showing(webhooks.replace_secret(tx, webhook_id))


@router.post(
    "/{webhook_id}/ping",
    summary="Send a test event",
    dependencies=WRITES,
    responses=documented(401, 404, 409, 500, 503),
)
def ping_webhook(webhook_id: PathWebhookId, tx: Transaction) -> Delivery:
    """An event of type `webhook.ping`, to see whether it arrives: ask for the delivery a moment later."""
    return Delivery.of(webhooks.ping(tx, webhook_id))


@router.get(
    "/{webhook_id}/deliveries",
    summary="List deliveries",
    dependencies=READS,
    responses=documented(401, 404, 422, 500, 503),
)
def list_webhook_deliveries(
    webhook_id: PathWebhookId,
    bounds: Bounds,
    tx: Transaction,
    status: Annotated[deliveries.Status | None, Query(description="only those")] = None,
) -> DeliveryList:
    """Newest first, for thirty days."""
    after = checked_cursor(bounds.after, is_delivery_id, what="the id of a delivery")
    found = deliveries.page(
        tx, webhook_id, limit=bounds.limit + 1, after=DeliveryId(after) if after else None, status=status
    )
    return DeliveryList.of([Delivery.of(row) for row in found], limit=bounds.limit)


@router.get(
    "/{webhook_id}/deliveries/{delivery_id}",
    summary="Get a delivery",
    dependencies=READS,
    responses=documented(401, 404, 500, 503),
)
def get_webhook_delivery(delivery_id: PathDeliveryId, tx: Transaction) -> Delivery:
    """How it went so far."""
    return Delivery.of(deliveries.get(tx, delivery_id))


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/replay",
    summary="Send an event again",
    dependencies=WRITES,
    responses=documented(401, 404, 409, 500, 503),
)
def replay_webhook_delivery(delivery_id: PathDeliveryId, tx: Transaction) -> Delivery:
    """Now, with the same id and body, and as patiently as the first time; delivered ones, too."""
    return Delivery.of(deliveries.replay(tx, delivery_id))
