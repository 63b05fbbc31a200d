"""Uploaded data files: content-addressed bytes in the store, one row per upload."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from sqlalchemy import select

from bitsmith_core.bundle import file_sha256
from bitsmith_core.db import Tx
from bitsmith_core.db.models import File
from bitsmith_core.errors import InvalidFile, NotFound
from bitsmith_core.ids import FileId, ProjectId, new_file_id
from bitsmith_core.spec.records import MAX_LINE_BYTES, parse_object, parse_record, read_lines
from bitsmith_core.storage import ObjectStore

__all__ = ["File", "Purpose", "add", "belongs_to", "check_name", "get", "page", "store_bytes", "validate"]

Purpose = Literal["fine-tune", "evals"]
"""fine-tune: examples to train or validate on; evals: an eval pack, the documents of a benchmark."""

_PARSE = {"fine-tune": parse_record, "evals": parse_object}


def validate(path: Path, purpose: Purpose) -> int:
    """How many examples a JSONL file holds, each of the shape its purpose asks for.

    Raises:
        InvalidFile: naming each bad line.
    """
    with path.open("rb") as file:
        return sum(1 for _ in read_lines(_bounded_lines(file), _PARSE[purpose]))


def _bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines as they are, but one that is too long is cut just beyond the limit: no line may fill the memory."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield line


def check_name(filename: str) -> None:
    """Raises InvalidFile for a name that is a path, too long, or no text."""
    if not filename.strip() or "/" in filename or "\\" in filename or not filename.isprintable() or len(filename) > 255:
        raise InvalidFile(f"{filename[:255]!r} is not a file name; send a plain name without a path")


def store_bytes(store: ObjectStore, path: Path) -> str:
    """Put the file under its digest, unless the store has it; answers the digest. Safe to repeat."""
    sha256 = file_sha256(path)
    key = object_key(sha256)
    if store.stat(key) is None:
        store.put_file(key, path)
    return sha256


def object_key(sha256: str) -> str:
    return f"files/sha256/{sha256}"


def add(
    tx: Tx, *, project: ProjectId, filename: str, purpose: Purpose, size_bytes: int, sha256: str, examples: int
) -> File:
    """A row for bytes that are in the store already (bytes without a row are garbage, a row without bytes is a lie)."""
    check_name(filename)
    file = File(
        id=new_file_id(),
        project_id=project,
        filename=filename,
        purpose=purpose,
        bytes=size_bytes,
        sha256=sha256,
        examples=examples,
        object_key=object_key(sha256),
    )
    tx.add(file)
    tx.flush()
    return file


def belongs_to(tx: Tx, file_id: FileId, project: ProjectId) -> bool:
    """Whether the file exists, for this project."""
    file = tx.get(File, file_id)
    return file is not None and file.project_id == project and file.deleted_at is None


def get(tx: Tx, file_id: FileId) -> File:
    file = tx.get(File, file_id)
    if file is None:
        raise NotFound(f"there is no file {file_id}")
    return file


def page(tx: Tx, *, project: ProjectId, limit: int, after: FileId | None = None) -> list[File]:
    """Newest first; ids sort by time, so the cursor is the last id seen."""
    query = select(File).where(File.project_id == project, File.deleted_at.is_(None))
    query = query.order_by(File.id.desc()).limit(limit)
    if after is not None:
        query = query.where(File.id < after)
    return list(tx.scalars(query))
