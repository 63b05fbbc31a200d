"""Published checkpoints and their scores."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bitsmith_core.db.base import Base
from bitsmith_core.ids import JobId, ModelId, ProjectId


class Model(Base):
    """A name in the registry; its versions are what people download."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[ModelId] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    base_model: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    versions: Mapped[list["Version"]] = relationship(
        back_populates="model", order_by="Version.number.desc()", lazy="raise"
    )


class Version(Base):
    """One published checkpoint. Immutable; `manifest_sha256` is its identity."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        UniqueConstraint("job_id"),  # a job publishes once, however often its last step is repeated
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    model_id: Mapped[ModelId] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"))
    manifest_sha256: Mapped[str]
    manifest: Mapped[dict[str, Any]]  # bitsmith_core.bundle.Manifest
    prefix: Mapped[str]  # of its files in the object store
    bytes: Mapped[int] = mapped_column(BigInteger)
    bpw_codes: Mapped[float | None]  # both None for a version without codes: merged adapters
    bpw_effective: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    model: Mapped[Model] = relationship(back_populates="versions", lazy="raise")
    scores: Mapped[list["EvalResult"]] = relationship(order_by="EvalResult.id", lazy="raise")


class EvalResult(Base):
    """One score of one version, or of what it came from (`subject`)."""

    __tablename__ = "eval_results"
    __table_args__ = (UniqueConstraint("version_id", "subject", "task", "metric"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    subject: Mapped[str]
    task: Mapped[str]
    metric: Mapped[str]
    value: Mapped[float]
    stderr: Mapped[float | None]
    n: Mapped[int]
    n_unit: Mapped[str]
    higher_is_better: Mapped[bool]
    comparable_key: Mapped[str]
