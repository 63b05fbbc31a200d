"""Webhooks as methods: who is told of what happens, and what was sent to them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from bitsmith_client.sdk.pages import listed, segment
from bitsmith_client.sdk.transport import Transport


class Webhook(BaseModel):
    id: str
    url: str
    events: list[str]  # empty: everything
    enabled: bool
    failures: int  # in a row
    created_at: datetime


class WebhookWithSecret(Webhook):
    secret: str


class Delivery(BaseModel):
    id: str
    webhook_id: str
    type: str
    status: str  # pending, delivered or failed
    attempts: int
    next_attempt_at: datetime | None
    response_status: int | None
    error: str | None
    created_at: datetime
    delivered_at: datetime | None
    payload: dict[str, Any]


class Webhooks:
    _path = "/v1/webhooks"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, url: str, *, events: Sequence[str] = ()) -> WebhookWithSecret:
        """The answer is the only one that holds the secret. Without events it hears of everything."""
        answer = self._transport.post(self._path, {"url": url, "events": [*events]})
        return WebhookWithSecret.model_validate(answer)

    def list(self, *, limit: int = 20) -> list[Webhook]:
        """Newest first."""
        return listed(self._transport, self._path, Webhook, limit=limit)

    def get(self, webhook_id: str) -> Webhook:
        return Webhook.model_validate(self._transport.get(self._of(webhook_id)))

    def change(self, webhook_id: str, **changes: Any) -> Webhook:
        """url, events or enabled."""
        return Webhook.model_validate(self._transport.patch(self._of(webhook_id), changes))

    def rotate_secret(self, webhook_id: str) -> WebhookWithSecret:
        """For 24 hours the secret that it replaces signs, too."""
        return WebhookWithSecret.model_validate(self._transport.post(f"{self._of(webhook_id)}/rotate_secret"))

    def delete(self, webhook_id: str) -> None:
        """With its deliveries; what waits is not sent."""
        self._transport.delete(self._of(webhook_id))

    def ping(self, webhook_id: str) -> Delivery:
        return Delivery.model_validate(self._transport.post(f"{self._of(webhook_id)}/ping"))

    def deliveries(self, webhook_id: str, *, limit: int = 20, status: str | None = None) -> Sequence[Delivery]:
        """Newest first, for thirty days."""
        query = {"status": status} if status is not None else {}
        return listed(self._transport, f"{self._of(webhook_id)}/deliveries", Delivery, limit=limit, query=query)

    def replay(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send it again, now, under the same id."""
        path = f"{self._of(webhook_id)}/deliveries/{segment(delivery_id)}/replay"
        return Delivery.model_validate(self._transport.post(path))

    def _of(self, webhook_id: str) -> str:
        return f"{self._path}/{segment(webhook_id)}"
