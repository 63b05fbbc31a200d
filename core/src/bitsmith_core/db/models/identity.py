"""Who may do what: projects, their keys, and the answers already given to them."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bitsmith_core.db.base import Base
from bitsmith_core.ids import ApiKeyId, ProjectId


class Project(Base):
    """What owns everything else; another project's things do not exist for it."""

    __tablename__ = "projects"

    id: Mapped[ProjectId] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    limits: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))  # over the installation's
    weight: Mapped[float] = mapped_column(Double, server_default="1")  # of its share of the GPUs
    # GPU seconds used, halved every half-life, as of charged_at: what fair share goes by.
    charge: Mapped[float] = mapped_column(Double, server_default="0")
    charged_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    archived_at: Mapped[datetime | None]


class ApiKey(Base):
    """A key as it is remembered: its secret only as a digest."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("role IN ('viewer','member','admin')", name="role"),
        Index("ix_api_keys_project", "project_id", "id"),
    )

    id: Mapped[ApiKeyId] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    role: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(server_default=text("'[]'::jsonb"))  # empty: all that the role may do
    secret_sha256: Mapped[str]
    created_by: Mapped[str | None]  # a key id; None: the installation's bootstrap key
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """The answer already given under a client's Idempotency-Key, stored with what it created."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_age", "created_at"),)

    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]  # of method, path and body
    status: Mapped[int]
    answer: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
