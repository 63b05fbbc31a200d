"""Published checkpoints, what was measured on them, and the names people give them."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bitsmith_core.db.base import Base
from bitsmith_core.ids import EvalId, FileId, JobId, JudgementId, ModelId, ProjectId


class Model(Base):
    """A name in the registry; its versions are what people download.

    A model without versions was deleted: nobody sees it, and only its numbers and its aliases' history are kept.
    """

    __tablename__ = "models"
    __table_args__ = (
        CheckConstraint("visibility IN ('project','installation')", name="visibility"),
        UniqueConstraint("project_id", "name"),
        Index("ix_models_tags", "tags", postgresql_using="gin"),
        Index("ix_models_shared", "name", postgresql_where=text("visibility = 'installation'")),
    )

    id: Mapped[ModelId] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    base_model: Mapped[str]
    display_name: Mapped[str | None]
    task: Mapped[str] = mapped_column(server_default="text-generation")
    visibility: Mapped[str] = mapped_column(server_default="project")  # installation: all its projects may read it
    licence: Mapped[str | None]  # an SPDX identifier, or what the base's card says
    card: Mapped[str | None]  # markdown that people wrote; the facts are generated around it
    tags: Mapped[list[str]] = mapped_column(server_default=text("'[]'::jsonb"))
    gates: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))  # alias -> what it asks for
    revision: Mapped[int] = mapped_column(server_default="1")  # of what people may change: the ETag
    last_number: Mapped[int] = mapped_column(server_default="0")  # of its versions, deleted ones too: never given again
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())

    versions: Mapped[list["Version"]] = relationship(
        back_populates="model", order_by="Version.number.desc()", lazy="raise"
    )
    aliases: Mapped[list["Alias"]] = relationship(order_by="Alias.name", lazy="raise")


class Version(Base):
    """One published checkpoint. Immutable but for `is_newest`; `manifest_sha256` is its identity.

    What the manifest says is repeated in columns where people filter or sort by it.
    """

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        UniqueConstraint("job_id"),  # a job publishes once, however often its last step is repeated
        Index("ix_versions_newest", "model_id", unique=True, postgresql_where=text("is_newest")),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    model_id: Mapped[ModelId] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    is_newest: Mapped[bool] = mapped_column(server_default=text("true"))  # of its model
    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"))
    manifest_sha256: Mapped[str]
    manifest: Mapped[dict[str, Any]]  # bitsmith_core.bundle.Manifest
    bytes: Mapped[int] = mapped_column(BigInteger)  # of all files
    weights_bytes: Mapped[int] = mapped_column(BigInteger)  # of what is loaded to serve it
    subject: Mapped[str]  # which of the manifest's subjects this version is: qsft, quantized, lora, qlora
    scheme: Mapped[str | None]
    training_file: Mapped[FileId | None]  # no foreign key: the file may be deleted
    bpw_codes: Mapped[float | None]  # both None for a version without codes: merged adapters
    bpw_effective: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    model: Mapped[Model] = relationship(back_populates="versions", lazy="raise")
    scores: Mapped[list["EvalResult"]] = relationship(order_by="EvalResult.id", lazy="raise")
    files: Mapped[list["VersionFile"]] = relationship(order_by="VersionFile.path", lazy="raise")


class VersionFile(Base):
    """A file of a version. Equal files of many versions are one object in the store."""

    __tablename__ = "version_files"
    __table_args__ = (Index("ix_version_files_object_key", "object_key"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    object_key: Mapped[str] = mapped_column(ForeignKey("blobs.object_key"))


class Blob(Base):
    """An object that may hold a file of versions, or will: what the sweep and a publication meet at."""

    __tablename__ = "blobs"

    object_key: Mapped[str] = mapped_column(primary_key=True)
    held_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when somebody last came to use it


class Alias(Base):
    """A name that points at one version of a model and may be moved, such as @prod."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_id", "number"], ["versions.model_id", "versions.number"], name="fk_aliases_version"
        ),
    )

    model_id: Mapped[ModelId] = mapped_column(ForeignKey("models.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]  # of the version
    revision: Mapped[int] = mapped_column(server_default="1")  # the ETag
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_by: Mapped[str | None]  # an actor as in the audit trail


class AliasMove(Base):
    """Where an alias pointed, when, and why it was moved. Outlives the versions it names."""

    __tablename__ = "alias_moves"
    __table_args__ = (Index("ix_alias_moves_alias", "model_id", "alias", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    model_id: Mapped[ModelId] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    alias: Mapped[str]
    from_number: Mapped[int | None]  # None: it was made
    to_number: Mapped[int | None]  # None: it was taken away
    actor: Mapped[str | None]
    reason: Mapped[str | None]
    gate: Mapped[dict[str, Any] | None]  # what the gate found; None: there was none
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Eval(Base):
    """One evaluation of a version: its job's own, or a later one by a job of its own."""

    __tablename__ = "evals"
    __table_args__ = (Index("ix_evals_version", "version_id", "id"), Index("ix_evals_items_key", "items_key"))

    id: Mapped[EvalId] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    job_id: Mapped[JobId] = mapped_column(ForeignKey("jobs.id"), unique=True)
    engine: Mapped[str]
    environment: Mapped[dict[str, Any]]  # bitsmith_core.bundle.Environment
    items_key: Mapped[str | None]  # object of the per-item results; None: none were kept
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class EvalResult(Base):
    """One score of one version, or of what it came from (`subject`)."""

    __tablename__ = "eval_results"
    __table_args__ = (
        UniqueConstraint("eval_id", "subject", "task", "metric"),
        Index("ix_eval_results_version", "version_id", "id"),
        Index("ix_eval_results_headline", "task", "value", "version_id", postgresql_where=text("is_headline")),
        Index("ix_eval_results_headline_of", "version_id", "task", unique=True, postgresql_where=text("is_headline")),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    eval_id: Mapped[EvalId] = mapped_column(ForeignKey("evals.id"))
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
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))  # few-shot, hashes, harness
    # Of the version itself (not of what it came from), the task's first metric, of its newest evaluation: what lists
    # show, and what filters and sorts go by. One a version and task.
    is_headline: Mapped[bool] = mapped_column(server_default=text("false"))


class Judgement(Base):
    """Answers of several models to the same prompts, compared two by two by a judge."""

    __tablename__ = "judgements"
    __table_args__ = (Index("ix_judgements_project", "project_id", "id"),)

    id: Mapped[JudgementId] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"))
    title: Mapped[str]
    judge: Mapped[str]  # the judging model's name, as its endpoint knows it
    prompts_sha256: Mapped[str]
    template_sha256: Mapped[str]  # of the judge's instructions
    contestants: Mapped[list[str]]  # name@version
    verdicts: Mapped[list[dict[str, Any]]]
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
