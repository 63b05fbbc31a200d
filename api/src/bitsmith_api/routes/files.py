"""Training and validation files, and eval packs."""

from typing import Annotated

from bitsmith_core import files
from bitsmith_core.ids import FileId, is_file_id
from fastapi import APIRouter, Query
from fastapi.responses import RedirectResponse

from bitsmith_api.deps import (
    Audited,
    FromCaller,
    FromQuota,
    OrderedBounds,
    PathFileId,
    Received,
    SharedServices,
    Transaction,
    checked_cursor,
    require,
)
from bitsmith_api.deps.upload import UPLOAD_BODY
from bitsmith_api.errors import documented
from bitsmith_api.schemas import File, FileDeleted, FileList

router = APIRouter(prefix="/v1/files", tags=["Files"], route_class=Audited)
READS, WRITES = [require("files:read")], [require("files:write")]


@router.post(
    "",
    summary="Upload a file",
    dependencies=WRITES,
    responses=documented(400, 401, 413, 415, 422, 500, 503),
    openapi_extra=UPLOAD_BODY,
)
def create_file(
    upload: Received, caller: FromCaller, quota: FromQuota, tx: Transaction, services: SharedServices
) -> File:
    """Store a JSON Lines file after reading every line of it. A refused file leaves nothing behind.

    For the purpose `fine-tune` each line is one example:
    `{"messages": [{"role": "user", …}, {"role": "assistant", …}]}`, `{"prompt": …, "completion": …}` or
    `{"instruction": …, "input": …, "output": …}`. For `evals` it is one document of a benchmark, a JSON object; the job
    that uses it checks that it has the columns of its task.
    A bad line answers 422, with its number in `errors[].pointer`. Files too large for one request come as an upload.
    """
    examples = files.validate_path(upload.path, upload.purpose)
    services.store.ensure_bucket()  # the first upload of a new installation makes it
    sha256 = files.store_bytes(services.store, upload.path)
    quota.check_bytes(tx, upload.size_bytes)
    row = files.add(
        tx,
        project=caller.project,
        filename=upload.filename,
        purpose=upload.purpose,
        size_bytes=upload.size_bytes,
        sha256=sha256,
        examples=examples,
    )
    files.check_stored(services.store, row)
    return File.of(row)


@router.get("", summary="List files", dependencies=READS, responses=documented(401, 422, 500, 503))
def list_files(
    bounds: OrderedBounds,
    caller: FromCaller,
    tx: Transaction,
    purpose: Annotated[str | None, Query(description="only files for this purpose")] = None,
) -> FileList:
    """By time of creation, newest first unless `order=asc`."""
    after = checked_cursor(bounds.after, is_file_id, what="a file id")
    before = checked_cursor(bounds.before, is_file_id, what="a file id", name="before")
    found = files.page(
        tx,
        project=caller.project,
        limit=bounds.limit + 1,
        after=FileId(after) if after else None,
        before=FileId(before) if before else None,
        order=bounds.order,
        purpose=purpose,
    )
    page = FileList.ending if bounds.ends_at_cursor else FileList.of
    return page([File.of(row) for row in found], limit=bounds.limit)


@router.get("/{file_id}", summary="Get a file", dependencies=READS, responses=documented(401, 404, 500, 503))
def get_file(file_id: PathFileId, tx: Transaction) -> File:
    """What is known about a file; `/content` leads to its bytes."""
    return File.of(files.get(tx, file_id))


@router.get(
    "/{file_id}/content",
    summary="Download a file",
    dependencies=READS,
    status_code=307,
    response_class=RedirectResponse,
    responses={
        307: {
            "description": "Where the bytes are, for anybody until the link expires",
            "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
        },
        **documented(401, 404, 500, 503),
    },
)
def get_file_content(file_id: PathFileId, tx: Transaction, services: SharedServices) -> RedirectResponse:
    """Redirects to a link into the object store. Follow it without the API key, as HTTP clients do by themselves when
    a redirect leads to another host.
    """
    row = files.get(tx, file_id)
    link = services.store.presigned_get(
        row.object_key, expires=services.settings.download_expires, filename=row.filename
    )
    return RedirectResponse(link, status_code=307, headers={"Cache-Control": "no-store"})


@router.delete(
    "/{file_id}", summary="Delete a file", dependencies=WRITES, responses=documented(401, 404, 409, 500, 503)
)
def delete_file(file_id: PathFileId, tx: Transaction) -> FileDeleted:
    """For good. A file that a queued, running or paused job needs answers 409."""
    files.delete(tx, file_id)
    return FileDeleted(id=file_id)
