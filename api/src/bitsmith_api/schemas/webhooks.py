"""Webhooks, and what was sent to them."""

from typing import Any, Literal, Self

from bitsmith_core.delivery import EventType, deliveries, webhooks
from pydantic import BaseModel, ConfigDict, Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix, unix_or_none

_EVENTS: Any = Field(
    default_factory=list, max_length=32, description="what it wants to hear of; empty: everything, also what is to come"
)
_URL = "https only, and to public addresses, unless whoever runs the installation allows others"


class NewWebhook(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str = Field(description=_URL, examples=["https://example.org/hooks/bitsmith"])
    events: list[EventType] = _EVENTS


class WebhookChange(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(default=None, description=_URL)
    events: list[EventType] | None = Field(default=None, max_length=32)
    enabled: bool | None = Field(default=None, description="false: what waits is not sent, nor what happens meanwhile")


class Webhook(Listed):
    """Where the project wants to hear of its events."""

    id: str = Field(examples=["wh-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[EventType] = Field(description="empty: everything")
    enabled: bool = Field(description="false also after three days in which it took nothing")
    failures: int = Field(description="attempts in a row that it did not take")
    created_at: UnixSeconds

    @classmethod
    def of(cls, row: webhooks.Webhook) -> Self:
        return cls(**_facts(row))


class WebhookWithSecret(Webhook):
    """A webhook with its secret: only the answers that make one ever hold it."""

    secret: str | None = Field(
        description="`whsec_…`, for any Standard Webhooks library; keep it now, it is not shown again: null when the "
        "same Idempotency-Key is used once more"
    )

    @classmethod
    def showing(cls, row: webhooks.Webhook) -> Self:
        return cls(**_facts(row), secret=row.secret)


class WebhookList(Page[Webhook]):
    pass


class WebhookDeleted(BaseModel):
    id: str
    object: Literal["webhook"] = "webhook"
    deleted: Literal[True] = True


class Delivery(Listed):
    """One event for one webhook: what is sent, how often it was, and what came back."""

    id: str = Field(description="also the header webhook-id", examples=["whd-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["webhook.delivery"] = "webhook.delivery"
    webhook_id: str
    type: str = Field(examples=["fine_tuning.job.succeeded"])
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: UnixSeconds | None = Field(description="null when it is over")
    response_status: int | None = Field(description="of the last answer")
    error: str | None = Field(description="why the last attempt failed")
    created_at: UnixSeconds
    delivered_at: UnixSeconds | None
    payload: dict[str, Any] = Field(description="the body as it is sent")

    @classmethod
    def of(cls, row: deliveries.WebhookDelivery) -> Self:
        return cls(
            id=row.id,
            webhook_id=row.webhook_id,
            type=row.type,
            status=row.status,  # type: ignore[arg-type]  # one of three, as the database makes sure
            attempts=row.attempts,
            next_attempt_at=unix(row.next_attempt_at) if row.status == "pending" else None,
            response_status=row.response_status,
            error=row.error,
            created_at=unix(row.created_at),
            delivered_at=unix_or_none(row.delivered_at),
            payload=row.payload,
        )


class DeliveryList(Page[Delivery]):
    pass


def _facts(row: webhooks.Webhook) -> dict[str, Any]:
    return {
        "id": row.id,
        "url": row.url,
        "events": row.events,
        "enabled": row.is_enabled,
        "failures": row.failures,
        "created_at": unix(row.created_at),
    }
