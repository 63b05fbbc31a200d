"""Path and query parameters that several routes share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from bitsmith_core import files, jobs
from bitsmith_core.errors import NotFound, Problem
from bitsmith_core.ids import FileId, JobId, is_file_id, is_job_id
from fastapi import Depends, Path, Query

from bitsmith_api.deps.services import FromCaller, Transaction
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


def _job_id(
    job_id: Annotated[str, Path(examples=["ftjob-0kp1p4n3vtsu5qc1q0o8g0a4lk"])], caller: FromCaller, tx: Transaction
) -> JobId:
    """Another project's job is not there: no route gets to see its id."""
    if not is_job_id(job_id) or not jobs.belongs_to(tx, JobId(job_id), caller.project):
        raise NotFound(f"there is no job {job_id}")
    return JobId(job_id)


PathJobId = Annotated[JobId, Depends(_job_id)]


def _file_id(
    file_id: Annotated[str, Path(examples=["file-0kp1p4n3vtsu5qc1q0o8g0a4lk"])], caller: FromCaller, tx: Transaction
) -> FileId:
    if not is_file_id(file_id) or not files.belongs_to(tx, FileId(file_id), caller.project):
        raise NotFound(f"there is no file {file_id}")
    return FileId(file_id)


PathFileId = Annotated[FileId, Depends(_file_id)]


def checked_cursor(after: str | None, is_cursor: Callable[[str], bool], *, what: str) -> str | None:
    """
    Raises:
        InvalidRequest: the cursor cannot have come from this list.
    """
    if after is not None and not is_cursor(after):
        detail = f"{after!r} is not {what}; pass the last_id of the page before"
        raise InvalidRequest(
            f"query after: {detail}", [Problem(pointer="query after", code="bad_cursor", detail=detail)]
        )
    return after
