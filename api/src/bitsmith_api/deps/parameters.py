"""Path and query parameters that several routes share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from bitsmith_core import files, jobs, uploads
from bitsmith_core.db import Tx
from bitsmith_core.errors import NotFound
from bitsmith_core.ids import FileId, JobId, ProjectId, UploadId, is_file_id, is_job_id, is_upload_id
from fastapi import Depends, Path, Query

from bitsmith_api.auth import Caller
from bitsmith_api.deps.caller import FromCaller
from bitsmith_api.deps.services import Services, SharedServices
from bitsmith_api.errors import InvalidRequest

Id = TypeVar("Id", bound=str)


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


# Dependencies look into Postgres in transactions of their own: no connection is held while a part comes in, or while
# gigabytes are checked.


def own(
    name: str,
    *,
    what: str,
    example: str,
    kind: Callable[[str], Id],
    is_id: Callable[[str], bool],
    belongs_to: Callable[[Tx, Id, ProjectId], bool],
) -> Callable[[str, Caller, Services], Id]:
    """A dependency: the path's `name`, the id of a thing in the caller's project.

    Another project's thing is not there: no route gets to see its id.
    """

    def find(
        text: Annotated[str, Path(alias=name, examples=[example])], caller: FromCaller, services: SharedServices
    ) -> Id:
        if is_id(text):
            with services.database.transaction() as tx:
                if belongs_to(tx, kind(text), caller.project):
                    return kind(text)
        raise NotFound(f"there is no {what} {text}")

    return find


_job = own(
    "job_id", what="job", example="ftjob-0kp1p4n3vtsu5qc1q0o8g0a4lk",
    kind=JobId, is_id=is_job_id, belongs_to=jobs.belongs_to,
)  # fmt: skip
_file = own(
    "file_id", what="file", example="file-0kp1p4n3vtsu5qc1q0o8g0a4lk",
    kind=FileId, is_id=is_file_id, belongs_to=files.belongs_to,
)  # fmt: skip
_upload = own(
    "upload_id", what="upload", example="upload-0kp1p4n3vtsu5qc1q0o8g0a4lk",
    kind=UploadId, is_id=is_upload_id, belongs_to=uploads.belongs_to,
)  # fmt: skip

PathJobId = Annotated[JobId, Depends(_job)]
PathFileId = Annotated[FileId, Depends(_file)]
PathUploadId = Annotated[UploadId, Depends(_upload)]


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
