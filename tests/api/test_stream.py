"""A stream follows a running job over a real socket: nothing lost, nothing doubled, nothing left behind."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from bitsmith_client.lab.child import Child
from bitsmith_core import jobs
from bitsmith_core.ids import JobId
from bitsmith_core.wire import Progress, Stage
from sqlalchemy import text

from tests.api.conftest import AUTHORIZED, Platform

Events = Iterator[tuple[str, str, str]]


@contextmanager
def stream(address: str, job_id: JobId, *, last_event_id: str = "") -> Iterator[Events]:
    """The stream's (event, id, data), as they arrive."""
    headers = {**AUTHORIZED, "Accept": "text/event-stream", "Last-Event-ID": last_event_id}
    url = f"{address}/v1/fine_tuning/jobs/{job_id}/events"
    with httpx.stream("GET", url, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        yield parsed(answer.iter_lines())


def parsed(lines: Iterator[str]) -> Events:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            yield fields["event"], fields.get("id", ""), fields["data"]
            fields = {}


def followed(address: str, job_id: JobId, *, last_event_id: str = "") -> tuple[list[int], str]:
    """The numbers of all events to the end, and the final status."""
    numbers: list[int] = []
    with stream(address, job_id, last_event_id=last_event_id) as events:
        for kind, number, data in events:
            if kind == "done":
                return numbers, json.loads(data)["status"]
            assert json.loads(data)["seq"] == int(number)
            numbers.append(int(number))
    raise AssertionError(f"the stream ended without done, after {numbers}")


def open_streams(address: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("bitsmith_event_streams_open "))


def eventually(condition: Callable[[], bool], *, within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_events_arrive_while_the_job_runs(served: str, platform: Platform) -> None:
    job_id = platform.submit()
    with stream(served, job_id) as events:
        assert json.loads(next(events)[2])["data"]["event"] == "job.queued"
        lease = platform.claim(job_id)
        assert json.loads(next(events)[2])["data"]["event"] == "job.started"
        for message in ("one", "two"):
            platform.note(lease, message)
            assert json.loads(next(events)[2])["message"] == message
        platform.finish(lease)
        assert json.loads(next(events)[2])["data"]["event"] == "job.succeeded"
        assert next(events)[::2] == ("done", '{"status": "succeeded"}')
        assert list(events) == []


def test_live_progress_comes_between_events_without_a_number(served: str, platform: Platform) -> None:
    lease = platform.claim(platform.submit())
    with stream(served, lease.job_id) as events:
        assert [next(events)[1] for _ in range(2)] == ["1", "2"]
        for done in (1, 2):
            with platform.database.transaction() as tx:
                jobs.record(tx, lease, Progress(stage=Stage.TRAINING, done=done, total=10**6, metrics={"loss": 2.5}))
            while (found := next(events))[0] != "progress":
                pass
            kind, number, data = found
            assert (kind, number) == ("progress", "")
            assert json.loads(data) == {
                "attempt": 1, "stage": "training", "done": done, "total": 10**6, "eta_s": None,
                "metrics": {"loss": 2.5},
            }  # fmt: skip
        platform.finish(lease)
        assert [kind for kind, *_ in events][-1] == "done"


@pytest.mark.failure("api restarted")
def test_a_client_that_comes_back_loses_and_doubles_nothing(served: str, platform: Platform) -> None:
    job_id = platform.submit()
    lease = platform.claim(job_id)

    def work() -> None:
        for number in range(300):
            platform.note(lease, str(number))
        platform.finish(lease)

    seen: list[int] = []
    worker = threading.Thread(target=work)
    worker.start()
    is_over = False
    while not is_over:
        with stream(served, job_id, last_event_id=str(seen[-1]) if seen else "") as events:
            for taken, (kind, number, _) in enumerate(events):
                is_over = kind == "done"
                if not is_over:
                    seen.append(int(number))
                if taken == 40:
                    break  # the connection breaks here
    worker.join()
    assert seen == list(range(1, 304))


@pytest.mark.failure("api restarted")
def test_a_stream_outlives_a_restart_of_the_api(serve: Callable[[], tuple[Child, str]], platform: Platform) -> None:
    job_id = platform.submit()
    lease = platform.claim(job_id)
    first, address = serve()
    seen = []
    with stream(address, job_id) as events:
        seen += [int(next(events)[1]), int(next(events)[1])]
        began_at = time.monotonic()
        first.stop()
        assert list(events) == []  # ended cleanly, without a done
    assert time.monotonic() - began_at < 10
    platform.note(lease, "while nobody listened")
    platform.finish(lease)
    _, address = serve()
    rest, status = followed(address, job_id, last_event_id=str(seen[-1]))
    assert (seen + rest, status) == ([1, 2, 3, 4], "succeeded")


def test_a_stream_outlives_the_loss_of_its_database_connections(served: str, platform: Platform) -> None:
    job_id = platform.submit()
    with stream(served, job_id) as events:
        next(events)
        with platform.database.transaction() as tx:
            tx.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
        platform.database.close()
        platform.claim(job_id)
        assert json.loads(next(events)[2])["data"]["event"] == "job.started"


def test_many_streams_leave_room_for_others(served: str, platform: Platform) -> None:
    job_id = platform.submit()
    lease = platform.claim(job_id)
    with ThreadPoolExecutor(80) as clients:
        answers = [clients.submit(followed, served, job_id) for _ in range(80)]
        assert eventually(lambda: open_streams(served) == 80, within_s=30)
        began_at = time.monotonic()
        assert httpx.get(f"{served}/v1/files", headers=AUTHORIZED).status_code == 200
        assert time.monotonic() - began_at < 5
        platform.note(lease, "still here")
        platform.finish(lease)
        assert [answer.result() for answer in answers] == [([1, 2, 3, 4], "succeeded")] * 80
    assert eventually(lambda: open_streams(served) == 0)


def test_a_stream_ends_when_its_client_leaves(served: str, platform: Platform) -> None:
    job_id = platform.submit()
    with stream(served, job_id) as events:
        next(events)
        assert open_streams(served) == 1
    assert eventually(lambda: open_streams(served) == 0)


def test_a_waiting_stream_holds_no_connection_to_postgres(served: str, platform: Platform) -> None:
    idle_in_transaction = text("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
    job_id = platform.submit()
    with stream(served, job_id) as events:
        next(events)
        held = 0
        for _ in range(40):
            with platform.database.transaction() as tx:
                held += tx.scalar(idle_in_transaction) or 0
            time.sleep(0.05)
        assert held <= 4  # a poll may be under way, but most looks find none
