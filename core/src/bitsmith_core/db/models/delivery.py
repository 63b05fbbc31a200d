"""What is told outside, and what is remembered of who did what."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bitsmith_core.db.base import Base
from bitsmith_core.ids import DeliveryId, ProjectId, WebhookId


class Outbox(Base):
    """What must be told outside, written with the change that causes it and sent afterwards."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_unsent", "id", postgresql_where=text("sent_at IS NULL")),
        Index("ix_outbox_age", "sent_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    topic: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sent_at: Mapped[datetime | None]


class Webhook(Base):
    """Where a project wants to hear of its events."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_project", "project_id", "id"),)

    id: Mapped[WebhookId] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"))
    url: Mapped[str]
    events: Mapped[list[str]]  # types; empty: all
    secret: Mapped[str]  # signs what is sent, so it cannot be a digest
    previous_secret: Mapped[str | None]  # signs, too, until then
    previous_secret_until: Mapped[datetime | None]
    is_enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    failures: Mapped[int] = mapped_column(server_default="0")  # in a row
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WebhookDelivery(Base):
    """One event for one webhook: what was sent, how often, and what came back."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("status IN ('pending','delivered','failed')", name="status"),
        Index("ix_webhook_deliveries_due", "next_attempt_at", postgresql_where=text("status = 'pending'")),
        Index("ix_webhook_deliveries_webhook", "webhook_id", "id"),
        Index("ix_webhook_deliveries_age", "created_at"),
    )

    id: Mapped[DeliveryId] = mapped_column(primary_key=True)
    webhook_id: Mapped[WebhookId] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    type: Mapped[str]
    payload: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = mapped_column(server_default="0")
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    response_status: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]


class AuditEvent(Base):
    """Who did what to what. No foreign keys: it outlives its objects."""

    __tablename__ = "audit_events"
    __table_args__ = (Index("ix_audit_events_project", "project_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    project_id: Mapped[str]
    actor: Mapped[str]  # a key id, or "bootstrap"
    action: Mapped[str]  # "file.deleted", "job.cancelled"
    target: Mapped[str]  # the object's id
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    request_id: Mapped[str | None]
    address: Mapped[str | None]  # the client's
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
