"""Every SQL statement about uploads. An upload that is overdue has expired, whether or not somebody wrote it down."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select, update

from bitsmith_core import files
from bitsmith_core.db import Tx
from bitsmith_core.db.models import File, Upload, UploadPart
from bitsmith_core.errors import Conflict, InvalidUpload, NotFound, Problem
from bitsmith_core.ids import (
    FileId,
    ProjectId,
    UploadId,
    UploadPartId,
    new_upload_id,
    new_upload_part_id,
)
from bitsmith_core.uploads.assembly import Plan, PlannedPart, Whole

PREFIX = "uploads/"
MAX_PARTS = 10_000
_SPARE_BYTES = 64 * 2**20  # a part may be sent again, and again; all of it together not much more than twice


def create(
    tx: Tx,
    *,
    project: ProjectId,
    filename: str,
    purpose: files.Purpose,
    mime_type: str,
    size_bytes: int,
    sha256: str | None,
    lifetime: timedelta,
) -> Upload:
    files.check_name(filename)
    upload = Upload(
        id=new_upload_id(),
        project_id=project,
        filename=filename,
        purpose=purpose,
        mime_type=mime_type,
        bytes=size_bytes,
        sha256=sha256,
        expires_at=func.now() + lifetime,
    )
    tx.add(upload)
    tx.flush()
    tx.refresh(upload)
    return upload


def belongs_to(tx: Tx, upload_id: UploadId, project: ProjectId) -> bool:
    """Whether the upload exists, for this project."""
    upload = tx.get(Upload, upload_id)
    return upload is not None and upload.project_id == project


def get(tx: Tx, upload_id: UploadId) -> Upload:
    """The upload as it is now, held until the transaction ends."""
    upload = tx.get(Upload, upload_id, with_for_update=True)
    if upload is None:
        raise NotFound(f"there is no upload {upload_id}")
    if upload.status == "pending" and tx.scalar(select(func.now() >= upload.expires_at)):
        upload.status = "expired"
        tx.flush()
    return upload


def file_of(tx: Tx, upload: Upload) -> File | None:
    """What a completed upload became; None before, and after the file was deleted."""
    file = tx.get(File, upload.file_id) if upload.file_id is not None else None
    return file if file is not None and file.deleted_at is None else None


def part_key(upload_id: UploadId, part_id: UploadPartId) -> str:
    return f"{PREFIX}{upload_id}/{part_id}"


def add_parts(tx: Tx, upload_id: UploadId, sizes_bytes: Sequence[int]) -> list[UploadPart]:
    """Rows for parts, and with them the keys where their bytes belong.

    Raises:
        Conflict: the upload is over.
        InvalidUpload: more than the upload can be meant to take.
    """
    upload = _pending(tx, upload_id)
    count, total_bytes = tx.execute(
        select(func.count(), func.coalesce(func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == upload_id)
    ).one()
    most_bytes = 2 * upload.bytes + _SPARE_BYTES
    if count + len(sizes_bytes) > MAX_PARTS or total_bytes + sum(sizes_bytes) > most_bytes:
        raise InvalidUpload(
            f"with these, {upload_id} would have {count + len(sizes_bytes)} parts of {total_bytes + sum(sizes_bytes)} "
            f"bytes; a file of {upload.bytes} bytes may come in {MAX_PARTS} parts of {most_bytes} bytes in all"
        )
    parts = []
    for size_bytes in sizes_bytes:
        part_id = new_upload_part_id()
        key = part_key(upload_id, part_id)
        parts.append(UploadPart(id=part_id, upload_id=upload_id, bytes=size_bytes, object_key=key))
    tx.add_all(parts)
    tx.flush()
    return parts


def cancel(tx: Tx, upload_id: UploadId) -> Upload:
    """Cancelling again is fine.

    Raises:
        Conflict: it is completed, or expired.
    """
    upload = get(tx, upload_id)
    if upload.status != "cancelled":
        _check_pending(upload)
        _end(tx, upload, "cancelled")
    return upload


def plan(tx: Tx, upload_id: UploadId, part_ids: Sequence[str]) -> Plan:
    """What these parts are to become.

    Raises:
        Conflict: the upload was cancelled, or expired.
        InvalidUpload: an unknown part, one named twice, or sizes that do not add up.
    """
    upload = get(tx, upload_id)
    is_done = upload.status == "completed"
    if not is_done:
        _check_pending(upload)
    return Plan(
        upload_id=upload_id,
        project=upload.project_id,
        filename=upload.filename,
        purpose=_purpose(upload),
        bytes=upload.bytes,
        sha256=upload.sha256,
        parts=[] if is_done else _planned(tx, upload, part_ids),
        is_done=is_done,
    )


def _planned(tx: Tx, upload: Upload, part_ids: Sequence[str]) -> list[PlannedPart]:
    known = {part.id: part for part in tx.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id))}
    problems, seen = [], set()
    for index, part_id in enumerate(part_ids):
        if UploadPartId(part_id) not in known:
            code, detail = "unknown_part", f"{upload.id} has no part {part_id!r}"
        elif part_id in seen:
            code, detail = "repeated_part", f"{part_id} is named twice"
        else:
            seen.add(part_id)
            continue
        problems.append(Problem(pointer=f"/part_ids/{index}", code=code, detail=detail))
    if problems:
        raise InvalidUpload(f"{problems[0].pointer}: {problems[0].detail}", problems)
    parts = [known[UploadPartId(part_id)] for part_id in part_ids]
    total_bytes = sum(part.bytes for part in parts)
    if total_bytes != upload.bytes:
        detail = f"these parts have {total_bytes} bytes, and the upload was announced with {upload.bytes}"
        raise InvalidUpload(detail, [Problem(pointer="/part_ids", code="wrong_size", detail=detail)])
    return [PlannedPart(key=part.object_key, bytes=part.bytes) for part in parts]


def complete(tx: Tx, plan: Plan, whole: Whole) -> tuple[Upload, File]:
    """The file, once: of two that complete an upload at the same time, the second gets the first one's file.

    Raises:
        Conflict: it was cancelled, or expired, meanwhile.
    """
    upload = get(tx, plan.upload_id)
    if upload.status == "completed" and upload.file_id is not None:
        return upload, files.get(tx, upload.file_id)
    _check_pending(upload)
    file = files.add(
        tx,
        project=plan.project,
        filename=plan.filename,
        purpose=plan.purpose,
        size_bytes=plan.bytes,
        sha256=whole.sha256,
        examples=whole.examples,
    )
    upload.file_id = FileId(file.id)
    _end(tx, upload, "completed")
    return upload, file


def expire(tx: Tx, *, limit: int = 100) -> list[UploadId]:
    """Write down what has expired and forget its parts; answers which uploads."""
    overdue = (
        select(Upload.id)
        .where(Upload.status == "pending", Upload.expires_at <= func.now())
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    expired = list(
        tx.scalars(update(Upload).where(Upload.id.in_(overdue)).values(status="expired").returning(Upload.id))
    )
    tx.execute(delete(UploadPart).where(UploadPart.upload_id.in_(expired)))
    return expired


def pending(tx: Tx, upload_ids: Sequence[UploadId]) -> set[UploadId]:
    """Those that still wait for parts."""
    query = select(Upload.id).where(Upload.id.in_(upload_ids), Upload.status == "pending")
    return set(tx.scalars(query))


def _pending(tx: Tx, upload_id: UploadId) -> Upload:
    upload = get(tx, upload_id)
    _check_pending(upload)
    return upload


def _check_pending(upload: Upload) -> None:
    if upload.status != "pending":
        advice = "" if upload.status == "completed" else "; create a new upload"
        raise Conflict(f"upload {upload.id} is {upload.status}{advice}")


def _end(tx: Tx, upload: Upload, status: str) -> None:
    upload.status = status
    tx.execute(delete(UploadPart).where(UploadPart.upload_id == upload.id))
    tx.flush()


def _purpose(upload: Upload) -> files.Purpose:
    return next(purpose for purpose in files.PURPOSES if purpose == upload.purpose)
