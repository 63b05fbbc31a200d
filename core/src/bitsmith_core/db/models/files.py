"""Uploaded data: files, and uploads that become files."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bitsmith_core.db.base import Base
from bitsmith_core.ids import FileId, ProjectId, UploadId, UploadPartId


class File(Base):
    """An uploaded training or validation file; its bytes are in the object store under its digest."""

    __tablename__ = "files"
    __table_args__ = (
        Index("ix_files_project", "project_id", "id", postgresql_where=text("deleted_at IS NULL")),
        Index("ix_files_object", "object_key"),
    )

    id: Mapped[FileId] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    examples: Mapped[int]  # records in the file
    object_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]  # the row stays for the jobs that name it


class ProjectStorage(Base):
    """What a project's files take together. A trigger on `files` keeps it: nothing else writes here."""

    __tablename__ = "project_storage"

    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)


class Upload(Base):
    """A file on its way in, in parts."""

    __tablename__ = "uploads"
    __table_args__ = (
        CheckConstraint("status IN ('pending','completed','cancelled','expired')", name="status"),
        Index("ix_uploads_pending", "expires_at", postgresql_where=text("status = 'pending'")),
        Index("ix_uploads_project", "project_id", "expires_at", postgresql_where=text("status = 'pending'")),
    )

    id: Mapped[UploadId] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None]  # what the client says the whole has
    status: Mapped[str] = mapped_column(server_default="pending")
    file_id: Mapped[FileId | None] = mapped_column(ForeignKey("files.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class UploadPart(Base):
    """One part; its bytes lie in the object store until the upload ends."""

    __tablename__ = "upload_parts"
    __table_args__ = (Index("ix_upload_parts_upload", "upload_id", "id"),)

    id: Mapped[UploadPartId] = mapped_column(primary_key=True)
    upload_id: Mapped[UploadId] = mapped_column(ForeignKey("uploads.id"))
    bytes: Mapped[int] = mapped_column(BigInteger)
    object_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
