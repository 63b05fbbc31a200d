"""A job's history: as pages, or as a stream that follows the job to its end."""

from typing import Annotated, Any, Literal

from bitsmith_core import jobs
from bitsmith_core.ids import JobId
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from bitsmith_api.deps import Bounds, PathJobId, SharedServices, Transaction, require
from bitsmith_api.errors import InvalidRequest, documented
from bitsmith_api.routes.stream import MEDIA_TYPE, follow
from bitsmith_api.schemas import Event, EventList, event_seq
from bitsmith_api.schemas.events import seq_number

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning jobs"])

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of events, or the stream of them",
        "content": {
            MEDIA_TYPE: {
                "schema": {"type": "string"},
                "example": "id: 1\nevent: message\ndata: {…}\n\nevent: progress\ndata: {…}\n\n"
                'event: done\ndata: {"status": "succeeded"}\n\n',
            }
        },
    }
}


@router.get(
    "/{job_id}/events",
    summary="List or follow a job's events",
    dependencies=[require("jobs:read")],
    response_model=EventList,
    responses={**_STREAM, **documented(401, 404, 422, 500, 503)},
)
def list_events(
    job_id: PathJobId,
    bounds: Bounds,
    tx: Transaction,
    services: SharedServices,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: newest first")] = "desc",
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="streams go on after this number")
    ] = None,
) -> EventList | StreamingResponse:
    """With `Accept: text/event-stream` the answer is a stream, from the first event (or after `Last-Event-ID` or
    `after`) to the job's end: `id` is the event's number, `event` its type, `data` the Event. Between them come
    `event: progress` without an `id`: how far the running stage is and what it measures, now and not kept. The last one
    is `event: done` with the final status. A connection that breaks loses nothing: send the last `id` you saw as
    `Last-Event-ID`.
    """
    seq = _seq_after(job_id, bounds.after)
    if _wants_stream(accept):
        jobs.get(tx, job_id)
        begin = _seq_of_header(last_event_id)
        return follow(services, job_id, after=begin if begin is not None else seq or 0)
    if order == "asc":
        found = jobs.events_after(tx, job_id, seq=seq or 0, limit=bounds.limit + 1)
    else:
        found = jobs.events_before(tx, job_id, seq=seq, limit=bounds.limit + 1)
    return EventList.of([Event.of(row) for row in found], limit=bounds.limit)


def _wants_stream(accept: str) -> bool:
    return any(part.partition(";")[0].strip().lower() == MEDIA_TYPE for part in accept.split(","))


def _seq_after(job_id: JobId, after: str | None) -> int | None:
    if after is None:
        return None
    seq = event_seq(job_id, after)
    if seq is None:
        raise InvalidRequest.at(
            "query after", "bad_cursor", f"{after!r} is not an event of this job; pass the last_id of the page before"
        )
    return seq


def _seq_of_header(last_event_id: str | None) -> int | None:
    """An empty one is what a client sends that has seen no event yet."""
    if not last_event_id:
        return None
    seq = seq_number(last_event_id)
    if seq is None:
        raise InvalidRequest.at(
            "header Last-Event-ID", "bad_cursor", f"{last_event_id!r} is not the number of an event"
        )
    return seq
