"""Path and query parameters that several routes share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from bitsmith_core import files, jobs, uploads
from bitsmith_core.errors import NotFound, Problem
from bitsmith_core.ids import FileId, JobId, UploadId, is_file_id, is_job_id, is_upload_id
from fastapi import Depends, Path, Query

from bitsmith_api.deps.caller import FromCaller
from bitsmith_api.deps.services import SharedServices
from bitsmith_api.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PageBounds:
    limit: int
    after: str | None


async def _bounds(
    limit: Annotated[int, Query(ge=1, le=100, description="how many at most")] = 20,
    after: Annotated[str | None, Query(description="`last_id` of the page before")] = None,
) -> PageBounds:
    return PageBounds(limit=limit, after=after)


Bounds = Annotated[PageBounds, Depends(_bounds)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedPageBounds(PageBounds):
    before: str | None
    order: Literal["asc", "desc"]

    @property
    def ends_at_cursor(self) -> bool:
        return self.before is not None and self.after is None


async def _ordered_bounds(
    bounds: Bounds,
    before: Annotated[str | None, Query(description="`first_id` of the page after")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="by time of creation; desc: newest first")] = "desc",
) -> OrderedPageBounds:
    return OrderedPageBounds(limit=bounds.limit, after=bounds.after, before=before, order=order)


OrderedBounds = Annotated[OrderedPageBounds, Depends(_ordered_bounds)]


# Dependencies look into Postgres in transactions of their own. A request that kept its connection from one of its
# threads to the next would wait for a thread, and all threads may be waiting for a connection.


def _job_id(
    job_id: Annotated[str, Path(examples=["ftjob-0kp1p4n3vtsu5qc1q0o8g0a4lk"])],
    caller: FromCaller,
    services: SharedServices,
) -> JobId:
    """Another project's job is not there: no route gets to see its id."""
    if is_job_id(job_id):
        with services.database.transaction() as tx:
            if jobs.belongs_to(tx, JobId(job_id), caller.project):
                return JobId(job_id)
    raise NotFound(f"there is no job {job_id}")


PathJobId = Annotated[JobId, Depends(_job_id)]


def _file_id(
    file_id: Annotated[str, Path(examples=["file-0kp1p4n3vtsu5qc1q0o8g0a4lk"])],
    caller: FromCaller,
    services: SharedServices,
) -> FileId:
    if is_file_id(file_id):
        with services.database.transaction() as tx:
            if files.belongs_to(tx, FileId(file_id), caller.project):
                return FileId(file_id)
    raise NotFound(f"there is no file {file_id}")


PathFileId = Annotated[FileId, Depends(_file_id)]


def _upload_id(
    upload_id: Annotated[str, Path(examples=["upload-0kp1p4n3vtsu5qc1q0o8g0a4lk"])],
    caller: FromCaller,
    services: SharedServices,
) -> UploadId:
    # In a transaction of its own: no connection is held while a part comes in, or while gigabytes are checked.
    if is_upload_id(upload_id):
        with services.database.transaction() as tx:
            if uploads.belongs_to(tx, UploadId(upload_id), caller.project):
                return UploadId(upload_id)
    raise NotFound(f"there is no upload {upload_id}")


PathUploadId = Annotated[UploadId, Depends(_upload_id)]


def checked_cursor(
    cursor: str | None, is_cursor: Callable[[str], bool], *, what: str, name: Literal["after", "before"] = "after"
) -> str | None:
    """
    Raises:
        InvalidRequest: the cursor cannot have come from this list.
    """
    if cursor is not None and not is_cursor(cursor):
        source = "last_id of the page before" if name == "after" else "first_id of the page after"
        detail = f"{cursor!r} is not {what}; pass the {source}"
        raise InvalidRequest.at(f"query {name}", "bad_cursor", detail)
    return cursor
