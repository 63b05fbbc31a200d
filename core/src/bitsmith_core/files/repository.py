"""Every SQL statement about files."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import ColumnElement, Text, cast, func, or_, select, text
from sqlalchemy.dialects.postgresql import JSONPATH

from bitsmith_core.db import Tx
from bitsmith_core.db.models import OPEN_STATUSES, File, Job
from bitsmith_core.errors import Conflict, NotFound
from bitsmith_core.files.content import Purpose, check_name
from bitsmith_core.ids import FileId, ProjectId, new_file_id

PREFIX = "files/sha256/"

_IN_PACKS = "$.method.*.evaluation.benchmarks[*] ? (@.file == $id || @.fewshot_file == $id)"


def object_key(sha256: str) -> str:
    return f"{PREFIX}{sha256}"


def add(
    tx: Tx, *, project: ProjectId, filename: str, purpose: Purpose, size_bytes: int, sha256: str, examples: int
) -> File:
    """A row for bytes that are in the store already. Holds the object against the sweep until it ends."""
    check_name(filename)
    key = object_key(sha256)
    hold_object(tx, key)
    file = File(
        id=new_file_id(),
        project_id=project,
        filename=filename,
        purpose=purpose,
        bytes=size_bytes,
        sha256=sha256,
        examples=examples,
        object_key=key,
    )
    tx.add(file)
    tx.flush()
    return file


def hold_object(tx: Tx, key: str) -> None:
    tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})


def named(tx: Tx, keys: Sequence[str]) -> set[str]:
    """Those of the keys that a live file names."""
    query = select(File.object_key).where(File.object_key.in_(keys), File.deleted_at.is_(None))
    return set(tx.scalars(query))


def belongs_to(tx: Tx, file_id: FileId, project: ProjectId) -> bool:
    """Whether the file exists, for this project."""
    file = tx.get(File, file_id)
    return file is not None and file.project_id == project and file.deleted_at is None


def get(tx: Tx, file_id: FileId) -> File:
    """The file, deleted or not: jobs that ended keep naming what they learned from."""
    file = tx.get(File, file_id)
    if file is None:
        raise NotFound(f"there is no file {file_id}")
    return file


def page(
    tx: Tx,
    *,
    project: ProjectId,
    limit: int,
    after: FileId | None = None,
    before: FileId | None = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> list[File]:
    """Files in the order of their creation, which is that of their ids, so that the cursor is an id.

    Args:
        after: begin behind this file.
        before: end ahead of this file; without `after` these are the `limit` files nearest to it.
        order: desc is newest first.
        purpose: only these.
    """
    query = select(File).where(File.project_id == project, File.deleted_at.is_(None))
    is_newest_first = order == "desc"
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    if after is not None:
        query = query.where(File.id < after if is_newest_first else File.id > after)
    if before is not None:
        query = query.where(File.id > before if is_newest_first else File.id < before)
    reads_backwards = before is not None and after is None
    is_descending = is_newest_first != reads_backwards
    query = query.order_by(File.id.desc() if is_descending else File.id.asc()).limit(limit)
    found = list(tx.scalars(query))
    return found[::-1] if reads_backwards else found


def delete(tx: Tx, file_id: FileId) -> None:
    """Take a file out of sight; its row stays for the jobs that name it, its bytes go with the next sweep.

    FOR UPDATE decides against a job that is being submitted: `jobs.submit` holds the rows of its files FOR KEY SHARE
    from its check to its commit.

    Raises:
        NotFound: there is no such file, or it is deleted already.
        Conflict: a job that is not over needs it.
    """
    file = tx.get(File, file_id, with_for_update=True)
    if file is None or file.deleted_at is not None:
        raise NotFound(f"there is no file {file_id}")
    needed_by = tx.scalar(
        select(Job.id)
        .where(Job.project_id == file.project_id, Job.status.in_(OPEN_STATUSES), _names(file_id))
        .order_by(Job.id)
        .limit(1)
    )
    if needed_by is not None:
        raise Conflict(f"job {needed_by} needs {file_id}; delete it when the job is over, or cancel the job first")
    file.deleted_at = func.now()
    tx.flush()


def _names(file_id: FileId) -> ColumnElement[bool]:
    """Jobs that name the file, as data or as the eval pack of a benchmark."""
    in_packs = func.jsonb_path_exists(
        Job.spec, cast(_IN_PACKS, JSONPATH), func.jsonb_build_object("id", cast(file_id, Text))
    )
    return or_(Job.training_file == file_id, Job.validation_file == file_id, in_packs)
