"""What a job's engine logged, from the object store piece by piece."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated

from bitsmith_core import jobs
from bitsmith_core.errors import NotFound
from bitsmith_core.storage import ObjectStore
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from bitsmith_api.deps import PathJobId, SharedServices, Transaction, require
from bitsmith_api.errors import InvalidRequest, documented
from bitsmith_api.schemas.events import seq_number

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning jobs"])

CURSOR = "X-Log-Cursor"
MAX_TAIL_BYTES = 8 * 2**20  # held in memory


@router.get(
    "/{job_id}/logs",
    summary="Read a job's log",
    dependencies=[require("jobs:read")],
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The log as text",
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "headers": {
                CURSOR: {"description": "pass it as `after` to read what comes next", "schema": {"type": "string"}}
            },
        },
        **documented(401, 404, 422, 500, 503),
    },
)
def get_logs(
    job_id: PathJobId,
    tx: Transaction,
    services: SharedServices,
    attempt: Annotated[int | None, Query(ge=1, lt=2**31, description="the newest with a log if unset")] = None,
    tail: Annotated[int | None, Query(ge=1, le=10_000, description="only the last lines")] = None,
    after: Annotated[str | None, Query(description="`X-Log-Cursor` of the answer before: only what is new")] = None,
) -> StreamingResponse:
    """One attempt's log, as the engine wrote it; empty while there is none. To follow a job that runs, ask again with
    `after`: the cursor names the attempt too, and a newer attempt begins a log of its own.
    """
    number = -1
    if after is not None:
        known_attempt, number = _parsed(after)
        if attempt is None and jobs.get(tx, job_id).attempt_no == known_attempt:
            attempt = known_attempt
        elif attempt != known_attempt:
            number = -1
    chunks = jobs.queries.log_chunks(tx, job_id, attempt=attempt, after=number)
    pieces = [(chunk.object_key, chunk.bytes) for chunk in chunks]
    text = _whole(services.store, pieces) if tail is None else _tail(services.store, pieces, tail)
    cursor = f"{chunks[-1].attempt}:{chunks[-1].number}" if chunks else after
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(
        text, media_type="text/plain; charset=utf-8", headers=headers | ({CURSOR: cursor} if cursor else {})
    )


def _whole(store: ObjectStore, pieces: Sequence[tuple[str, int]]) -> Iterator[bytes]:
    """Piece by piece; the first at once, while a store that does not answer can still be told as an error."""
    first = [_piece(store, key, size_bytes) for key, size_bytes in pieces[:1]]
    return chain(first, (_piece(store, key, size_bytes) for key, size_bytes in pieces[1:]))


def _tail(store: ObjectStore, pieces: Sequence[tuple[str, int]], lines: int) -> Iterator[bytes]:
    """The last lines, from as few pieces as hold them."""
    found = b""
    for key, size_bytes in reversed(pieces):
        found = _piece(store, key, size_bytes) + found
        # One line more: what the first piece begins with may be the end of a line.
        if found.count(b"\n") > lines or len(found) > MAX_TAIL_BYTES:
            break
    return iter([b"".join(found[-MAX_TAIL_BYTES:].splitlines(keepends=True)[-lines:])])


def _piece(store: ObjectStore, key: str, size_bytes: int) -> bytes:
    try:
        return store.read(key, offset=0, length=size_bytes)
    except NotFound:
        return b"[this part of the log is no longer kept]\n"


def _parsed(cursor: str) -> tuple[int, int]:
    attempt, colon, number = cursor.partition(":")
    numbers = seq_number(attempt), seq_number(number)
    if not colon or numbers[0] is None or numbers[1] is None:
        detail = f"{cursor!r} is no cursor of a log; pass the {CURSOR} of the answer before"
        raise InvalidRequest.at("query after", "bad_cursor", detail)
    return numbers[0], numbers[1]
