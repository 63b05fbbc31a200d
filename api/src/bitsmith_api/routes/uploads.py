"""Large files, in parts.

The routes that take bytes or read gigabytes open short transactions of their own: no connection to the database is
held meanwhile.
"""

from typing import Annotated

from bitsmith_core import files, uploads
from bitsmith_core.clock import utc_now
from bitsmith_core.errors import StoreUnavailable
from bitsmith_core.ids import UploadId
from bitsmith_core.log import get_logger
from bitsmith_core.storage import ObjectStore
from fastapi import APIRouter, Depends

from bitsmith_api.deps import (
    Audited,
    FromCaller,
    FromQuota,
    PathUploadId,
    ReceivedPart,
    SharedServices,
    Transaction,
    require,
)
from bitsmith_api.deps.body import body_schema, json_body
from bitsmith_api.deps.upload import PART_BODY
from bitsmith_api.errors import PayloadTooLarge, documented
from bitsmith_api.schemas import (
    PartUrl,
    PartUrlList,
    PartUrlRequest,
    Upload,
    UploadCompletion,
    UploadPart,
    UploadRequest,
)

router = APIRouter(prefix="/v1/uploads", tags=["Uploads"], route_class=Audited)
WRITES = [require("files:write")]
BODY = (400, 413, 415, 422)


@router.post(
    "",
    summary="Begin an upload",
    dependencies=WRITES,
    responses=documented(401, 500, 503, *BODY),
    openapi_extra=body_schema(UploadRequest),
)
def create_upload(
    request: Annotated[UploadRequest, Depends(json_body(UploadRequest))],
    caller: FromCaller,
    quota: FromQuota,
    tx: Transaction,
    services: SharedServices,
) -> Upload:
    """Announce a file that comes in parts, for those too large for one request. All of it has to arrive within
    an hour (`expires_at`).
    """
    settings = services.settings
    if request.bytes > settings.max_multipart_bytes:
        raise PayloadTooLarge(f"a file may have {settings.max_multipart_bytes} bytes, not {request.bytes}")
    quota.check_bytes(tx, request.bytes)
    row = uploads.create(
        tx,
        project=caller.project,
        filename=request.filename,
        purpose=request.purpose,
        mime_type=request.mime_type,
        size_bytes=request.bytes,
        sha256=request.sha256,
        lifetime=settings.upload_expires,
    )
    return Upload.of(row)


@router.get(
    "/{upload_id}",
    summary="Get an upload",
    dependencies=[require("files:read")],
    responses=documented(401, 404, 500, 503),
)
def get_upload(upload_id: PathUploadId, tx: Transaction) -> Upload:
    """Whether it still waits for parts, and the file it became."""
    row = uploads.get(tx, upload_id)
    return Upload.of(row, uploads.file_of(tx, row))


@router.post(
    "/{upload_id}/parts",
    summary="Send a part",
    dependencies=WRITES,
    responses=documented(401, 404, 409, 500, 503, *BODY),
    openapi_extra=PART_BODY,
)
def create_upload_part(upload_id: PathUploadId, part: ReceivedPart, services: SharedServices) -> UploadPart:
    """Parts may come in any order, and at the same time; their order is given when the upload is completed."""
    with services.database.transaction() as tx:
        [row] = uploads.add_parts(tx, upload_id, [part.size_bytes])
    services.store.ensure_bucket()  # the first upload of a new installation makes it
    services.store.put_file(row.object_key, part.path)
    return UploadPart.of(row)


@router.post(
    "/{upload_id}/part_urls",
    summary="Get links for parts",
    dependencies=WRITES,
    responses=documented(401, 404, 409, 500, 503, *BODY),
    openapi_extra=body_schema(PartUrlRequest),
)
def create_part_urls(
    upload_id: PathUploadId,
    request: Annotated[PartUrlRequest, Depends(json_body(PartUrlRequest))],
    tx: Transaction,
    services: SharedServices,
) -> PartUrlList:
    """Parts that go to the object store directly: PUT each part's bytes to its `url`, without the API key. The size
    is checked when the upload is completed.
    """
    services.store.ensure_bucket()
    expires = services.settings.upload_expires
    expires_at = int((utc_now() + expires).timestamp())
    rows = uploads.add_parts(tx, upload_id, request.bytes)
    return PartUrlList(
        data=[
            PartUrl(
                **UploadPart.of(row).model_dump(),
                bytes=row.bytes,
                url=services.store.presigned_put(row.object_key, expires=expires),
                expires_at=expires_at,
            )
            for row in rows
        ]
    )


@router.post(
    "/{upload_id}/complete",
    summary="Complete an upload",
    dependencies=WRITES,
    responses=documented(401, 404, 409, 500, 503, *BODY),
    openapi_extra=body_schema(UploadCompletion),
)
def complete_upload(
    upload_id: PathUploadId,
    request: Annotated[UploadCompletion, Depends(json_body(UploadCompletion))],
    services: SharedServices,
) -> Upload:
    """Put the parts together. Sizes, digests and every line are checked first; a bad line answers 422 with its number
    in `errors[].pointer`, and the upload stays open for better parts. Completing again answers the same file.
    """
    database, store = services.database, services.store
    with database.transaction() as tx:
        plan = uploads.plan(tx, upload_id, request.part_ids)
        if plan.is_done:
            row = uploads.get(tx, upload_id)
            return Upload.of(row, uploads.file_of(tx, row))

    whole = uploads.check(store, plan, sha256=request.sha256, md5=request.md5)
    uploads.assemble(store, plan, whole)

    with database.transaction() as tx:
        row, file = uploads.complete(tx, plan, whole)
        files.check_stored(store, file)
    _discard_parts(store, upload_id)
    return Upload.of(row, file)


@router.post(
    "/{upload_id}/cancel",
    summary="Cancel an upload",
    dependencies=WRITES,
    responses=documented(401, 404, 409, 500, 503),
)
def cancel_upload(upload_id: PathUploadId, services: SharedServices) -> Upload:
    """Throw the parts away. Cancelling twice is fine; a completed upload answers 409."""
    with services.database.transaction() as tx:
        row = uploads.cancel(tx, upload_id)
    _discard_parts(services.store, upload_id)
    return Upload.of(row)


def _discard_parts(store: ObjectStore, upload_id: UploadId) -> None:
    """The upload is over and its answer must not depend on this: what stays is swept later."""
    try:
        uploads.discard_parts(store, upload_id)
    except StoreUnavailable as error:
        get_logger().warning("upload.parts_left", upload_id=upload_id, error=str(error))
