"""Training and validation files, and eval packs."""

from bitsmith_core import files
from bitsmith_core.ids import FileId, is_file_id
from fastapi import APIRouter

from bitsmith_api.deps import Bounds, FromCaller, PathFileId, Received, SharedServices, Transaction, checked_cursor
from bitsmith_api.deps.upload import UPLOAD_BODY
from bitsmith_api.errors import documented
from bitsmith_api.schemas import File, FileList

router = APIRouter(prefix="/v1/files", tags=["Files"])


@router.post(
    "",
    summary="Upload a file",
    responses=documented(400, 401, 413, 415, 422, 500, 503),
    openapi_extra=UPLOAD_BODY,
)
def create_file(upload: Received, caller: FromCaller, tx: Transaction, services: SharedServices) -> File:
    """Store a JSON Lines file after reading every line of it. A refused file leaves nothing behind.

    For the purpose `fine-tune` each line is one example:
    `{"messages": [{"role": "user", …}, {"role": "assistant", …}]}`, `{"prompt": …, "completion": …}` or
    `{"instruction": …, "input": …, "output": …}`. For `evals` it is one document of a benchmark, a JSON object; the job
    that uses it checks that it has the columns of its task.
    A bad line answers 422, with its number in `errors[].pointer`.
    """
    examples = files.validate(upload.path, upload.purpose)
    services.store.ensure_bucket()  # the first upload of a new installation makes it
    sha256 = files.store_bytes(services.store, upload.path)
    row = files.add(
        tx,
        project=caller.project,
        filename=upload.filename,
        purpose=upload.purpose,
        size_bytes=upload.size_bytes,
        sha256=sha256,
        examples=examples,
    )
    return File.of(row)


@router.get("", summary="List files", responses=documented(401, 422, 500, 503))
def list_files(bounds: Bounds, caller: FromCaller, tx: Transaction) -> FileList:
    """Newest first."""
    after = checked_cursor(bounds.after, is_file_id, what="a file id")
    found = files.page(tx, project=caller.project, limit=bounds.limit + 1, after=FileId(after) if after else None)
    return FileList.of([File.of(row) for row in found], limit=bounds.limit)


@router.get("/{file_id}", summary="Get a file", responses=documented(401, 404, 500, 503))
def get_file(file_id: PathFileId, tx: Transaction) -> File:
    """What is known about a file; its bytes stay in the object store."""
    return File.of(files.get(tx, file_id))
