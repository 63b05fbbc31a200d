"""An uploaded file."""

from typing import Literal, Self

from bitsmith_core import files
from pydantic import BaseModel, Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix


class File(Listed):
    """An uploaded training or validation file, every line of it checked."""

    id: str = Field(examples=["file-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["file"] = "file"
    bytes: int
    created_at: UnixSeconds
    filename: str = Field(examples=["training.jsonl"])
    purpose: str = Field(examples=["fine-tune"])
    status: Literal["processed"] = "processed"
    sha256: str = Field(description="digest of the bytes")
    examples: int = Field(description="records in the file")

    @classmethod
    def of(cls, row: files.File) -> Self:
        return cls(
            id=row.id,
            bytes=row.bytes,
            created_at=unix(row.created_at),
            filename=row.filename,
            purpose=row.purpose,
            sha256=row.sha256,
            examples=row.examples,
        )


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FileList(Page[File]):
    pass
