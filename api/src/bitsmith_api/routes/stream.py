"""Server-sent events from Postgres: each stream asks twice a second and holds nothing in between.

Events are history and have numbers; progress is what the job's row says now, and whoever missed one gets the next.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import TERMINAL, JobStatus
from bitsmith_core.log import get_logger
from fastapi.responses import StreamingResponse

from bitsmith_api.deps import Services
from bitsmith_api.schemas import Event, stream_done, stream_event
from bitsmith_api.schemas.events import LiveProgress, stream_progress

MEDIA_TYPE = "text/event-stream"
POLL_S = 0.5
KEEP_ALIVE_S = 15.0  # proxies close what is silent for a minute
KEEP_ALIVE = ": keep-alive\n\n"
BATCH = 200  # events for one read


@dataclass(frozen=True, slots=True, kw_only=True)
class _News:
    events: list[Event]
    status: JobStatus
    progress: LiveProgress | None

    @property
    def is_last(self) -> bool:
        """Nothing can follow: the last event is written in the transaction that ends the job."""
        return self.status in TERMINAL and len(self.events) < BATCH


def follow(services: Services, job_id: JobId, *, after: int) -> StreamingResponse:
    """The job's events from after number `after` until it is over; the server ends it when the client leaves."""
    return StreamingResponse(
        _counted(services, _events(services, job_id, after)),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _counted(services: Services, stream: AsyncIterator[str]) -> AsyncIterator[str]:
    with services.metrics.open_streams.track_inprogress():
        async for piece in stream:
            yield piece


async def _events(services: Services, job_id: JobId, seq: int) -> AsyncIterator[str]:
    last_sent_at = time.monotonic()
    shown: LiveProgress | None = None
    while not services.streams.is_closing:
        news = await _read(services, job_id, seq)
        if news is not None and news.events:
            yield "".join(stream_event(event) for event in news.events)
            seq, last_sent_at = news.events[-1].seq, time.monotonic()
        if news is not None and news.progress not in (None, shown) and len(news.events) < BATCH:
            shown = news.progress
            assert shown is not None
            yield stream_progress(shown)
            last_sent_at = time.monotonic()
        if news is not None and news.is_last:
            yield stream_done(news.status)
            return
        if time.monotonic() - last_sent_at >= KEEP_ALIVE_S:
            yield KEEP_ALIVE
            last_sent_at = time.monotonic()
        if news is None or len(news.events) < BATCH:
            await anyio.sleep(POLL_S)


async def _read(services: Services, job_id: JobId, seq: int) -> _News | None:
    """None while Postgres does not answer: the stream outlives a restart of it."""
    read = partial(_news, services.database, job_id, seq)
    try:
        return await anyio.to_thread.run_sync(read, limiter=services.streams.readers)
    except DatabaseUnavailable as error:
        get_logger().warning("stream.database_unavailable", job_id=job_id, error=str(error))
        return None


def _news(database: Database, job_id: JobId, seq: int) -> _News:
    with database.transaction() as tx:
        # Status first: what ends the job between the two reads is seen by the next poll, never missed by this one.
        job = jobs.get(tx, job_id)
        rows = jobs.events_after(tx, job_id, seq=seq, limit=BATCH)
        return _News(
            events=[Event.of(row) for row in rows], status=JobStatus(job.status), progress=LiveProgress.of(job)
        )
