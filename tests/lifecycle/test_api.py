"""The API is killed under its clients, and told to cancel at the moment of success: nobody hears a wrong thing."""

import threading
import time
from collections.abc import Callable

import httpx
import pytest
from bitsmith_client.lab.child import Child
from bitsmith_core import jobs, registry
from bitsmith_core.db import Database
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import DesiredState, JobStatus, Lease
from bitsmith_core.settings import DatabaseSettings

from tests.api.conftest import AUTHORIZED
from tests.api.test_stream import stream
from tests.lifecycle.deeds import publish_and_finish
from tests.worker.conftest import Platform, until

KILLS = 2
ROUNDS = 20


def read_on(address: str, job_id: JobId, seen: list[int]) -> bool:
    """Follow the job from after what was seen until the stream ends, however; answers whether the job is over."""
    try:
        with stream(address, job_id, last_event_id=str(seen[-1]) if seen else "") as events:
            for kind, number, _ in events:
                if kind == "done":
                    return True
                if kind != "progress":
                    seen.append(int(number))
    except httpx.TransportError:
        time.sleep(0.1)  # as a browser's EventSource does
    return False


@pytest.mark.failure("api restarted")
def test_a_client_outlives_kills_of_the_api_and_loses_and_doubles_no_event(
    platform: Platform, serve: Callable[[], tuple[Child, str]]
) -> None:
    go = platform.folder / "go"
    platform.scheduler()
    platform.worker()
    api, address = serve()
    job_id = platform.submit(act="train", gate=str(go), hold_at="15 55")
    seen: list[int] = []

    def follow() -> None:
        while not read_on(address, job_id, seen):
            pass

    client = threading.Thread(target=follow)
    client.start()
    for step in (15, 55):
        until(lambda: platform.job(job_id).progress.get("done") == step, what=f"step {step}")  # noqa: B023
        until(lambda: bool(seen), what="the first event")
        api.kill()
        go.with_name(f"go-{step}").touch()  # history goes on while nobody listens
        api.start()
        api.wait_ready()
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    client.join(20)
    assert not client.is_alive()
    assert seen == list(range(1, platform.job(job_id).last_seq + 1))


@pytest.fixture
def leases(database: Database, platform: Platform) -> list[Lease]:
    """Of jobs that are about to succeed."""
    found = []
    for _ in range(ROUNDS):
        job_id = platform.submit(model="hf:org/tiny")
        with database.transaction() as tx:
            lease = jobs.claim(tx, job_id, worker="w1", ttl=jobs.workers.ALIVE_FOR)
        assert lease is not None
        found.append(lease)
    return found


@pytest.mark.failure("cancel races success")
def test_of_cancel_and_success_at_once_one_wins_and_whoever_asks_later_is_told(
    database: Database, database_settings: DatabaseSettings, leases: list[Lease], served: str
) -> None:
    answers: dict[JobId, int] = {}
    start = threading.Barrier(2)

    def cancel() -> None:
        with httpx.Client(base_url=served, headers=AUTHORIZED) as client:
            for lease in leases:
                start.wait(timeout=30)
                answers[lease.job_id] = client.post(f"/v1/fine_tuning/jobs/{lease.job_id}/cancel").status_code

    canceller = threading.Thread(target=cancel)
    canceller.start()
    for number, lease in enumerate(leases):
        start.wait(timeout=30)
        time.sleep(number % 5 * 0.003)  # not a synchronisation: it only varies who is first
        with database.transaction() as tx:
            hears = number % 2 == 1  # of the wish, if there is one
            if hears and jobs.extend(tx, lease, ttl=jobs.workers.ALIVE_FOR) == DesiredState.CANCEL:
                jobs.stopped(tx, lease)
            else:
                publish_and_finish(tx, lease)
    canceller.join()

    for lease in leases:
        with database.transaction() as tx:
            status = JobStatus(jobs.get(tx, lease.job_id).status)
            events = [event.data["event"] for event in jobs.events_after(tx, lease.job_id, seq=0, limit=100)]
        ends = [event for event in events if event in {"job.succeeded", "job.cancelled"}]
        assert ends == events[-1:] == [f"job.{status}"]
        was_first = "job.cancel_requested" in events
        assert answers[lease.job_id] == (200 if was_first else 409)
        assert was_first or status is JobStatus.SUCCEEDED
        again = httpx.post(f"{served}/v1/fine_tuning/jobs/{lease.job_id}/cancel", headers=AUTHORIZED)
        assert again.status_code == (409 if status is JobStatus.SUCCEEDED else 200)
        with database.transaction() as tx:
            published = registry.results_of(tx, [lease.job_id])
        assert bool(published) == (status is JobStatus.SUCCEEDED)
