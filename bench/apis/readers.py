"""Many readers of one job's event stream: how late events arrive, and how fast a history is read from its start."""

import asyncio
import threading
import time
from dataclasses import dataclass

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.wire import Note

from apis.load import Server

MARK = "written at "
HISTORY = 500  # events


@dataclass(frozen=True, slots=True)
class Heard:
    readers: int
    written: int
    heard: int
    delays_ms: list[float]  # from just before an event's transaction to its arrival
    seconds: float


async def follow(server: Server, job_id: str, *, readers: int, until: int) -> Heard:
    """Until every reader has heard event number `until`."""
    delays_ms: list[float] = []
    began = time.perf_counter()
    counts = await asyncio.gather(*(_read(server, job_id, until, delays_ms) for _ in range(readers)))
    return Heard(readers, until, sum(counts), delays_ms, time.perf_counter() - began)


async def _read(server: Server, job_id: str, until: int, delays_ms: list[float]) -> int:
    reader, writer = await asyncio.open_connection(server.host, server.port, limit=2**20)
    lines = [f"GET /v1/fine_tuning/jobs/{job_id}/events HTTP/1.1", f"Host: {server.host}", "Accept: text/event-stream"]
    lines += [f"{name}: {value}" for name, value in server.headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    heard = 0
    try:
        status = await reader.readline()
        assert b" 200 " in status, status
        while True:
            line = await reader.readline()
            if not line:
                raise ConnectionError(f"the stream ended after {heard} events")
            if line.startswith(b"id: "):
                heard += 1
                last = int(line[4:])
            elif line.startswith(b"data: "):
                _, is_timed, rest = line.partition(MARK.encode())
                if is_timed:
                    delays_ms.append((time.perf_counter() - float(rest.split(b'"')[0])) * 1000)
                if heard and last >= until:
                    return heard
    finally:
        writer.close()


def live(server: Server, database: Database, lease: jobs.Lease, *, readers: int, seconds: float) -> Heard:
    """Ten events a second while everybody listens."""
    count = max(1, int(seconds * 10))
    with database.transaction() as tx:
        first = jobs.get(tx, lease.job_id).last_seq

    def write() -> None:
        time.sleep(2.0)  # until all have connected and read what was there
        for _ in range(count):
            with database.transaction() as tx:
                jobs.record(tx, lease, Note(level="info", message=f"{MARK}{time.perf_counter()}"))
            time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return asyncio.run(follow(server, lease.job_id, readers=readers, until=first + count))
    finally:
        writer.join()


def replay(server: Server, database: Database, lease: jobs.Lease, *, readers: int) -> Heard:
    """Everybody comes at once for a history that is there already."""
    with database.transaction() as tx:
        for number in range(HISTORY):
            jobs.record(tx, lease, Note(level="info", message=f"Step {number}."))
        last = jobs.get(tx, lease.job_id).last_seq
    return asyncio.run(follow(server, lease.job_id, readers=readers, until=last))
