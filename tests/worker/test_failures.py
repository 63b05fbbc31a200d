"""What holds when things die, freeze or disappear: nothing is lost, nothing is published twice."""

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest
import redis
from bitsmith_core import jobs
from bitsmith_core.errors import IllegalTransition
from bitsmith_core.jobs import JobStatus
from sqlalchemy import text

from tests.worker.conftest import Platform, family, port_of, until
from tests.worker.gate import Gate


def resumed_stages(platform: Platform, job_id: str) -> set[str]:
    with platform.database.transaction() as tx:
        events = jobs.events_after(tx, jobs.get(tx, job_id).id, seq=0, limit=10_000)  # type: ignore[arg-type]
    return {event.data["stage"] for event in events if event.data.get("resumed")}


@pytest.mark.failure("worker killed")
def test_another_worker_goes_on_where_a_killed_one_stopped(platform: Platform) -> None:
    platform.scheduler()
    doomed = platform.worker("w1")
    go = platform.folder / "go"
    job_id = platform.submit(act="wait", gate=str(go))
    engine = platform.until_training(job_id)

    doomed.kill()
    until(lambda: not psutil.pid_exists(engine), within_s=10, what="the engine's end")
    go.touch()
    platform.worker("w2")
    platform.until_status(job_id, JobStatus.SUCCEEDED)

    assert platform.outcomes(job_id) == ["infra", "succeeded"]
    assert resumed_stages(platform, job_id) == {"measuring"}
    assert platform.versions() == 1


@pytest.mark.failure("engine killed")
def test_a_killed_engine_is_started_again_from_the_last_finished_stage(platform: Platform) -> None:
    platform.scheduler()
    platform.worker()
    go = platform.folder / "go"
    job_id = platform.submit(act="wait", gate=str(go))
    os.kill(platform.until_training(job_id), signal.SIGKILL)
    go.touch()
    platform.until_status(job_id, JobStatus.SUCCEEDED)

    assert platform.outcomes(job_id) == ["infra", "succeeded"]
    assert resumed_stages(platform, job_id) == {"measuring"}
    assert platform.versions() == 1


@pytest.mark.failure("worker frozen")
def test_what_a_frozen_worker_writes_after_its_lease_never_becomes_visible(platform: Platform) -> None:
    platform.scheduler()
    frozen = platform.worker("w1")
    go = platform.folder / "go"
    job_id = platform.submit(act="wait", gate=str(go))
    engine = platform.until_training(job_id)
    ours = [process for process in family(frozen) if process.pid != engine]
    for process in ours:
        process.send_signal(signal.SIGSTOP)

    go.touch()  # the engine finishes and its lines wait in the pipe
    platform.worker("w2")
    until(lambda: "job.requeued" in platform.story(job_id), what="reaping")
    for process in ours:
        process.send_signal(signal.SIGCONT)
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    until(lambda: "attempt.fell_silent" in frozen.log.read_text(), what="the late attempt's end")

    assert platform.outcomes(job_id) == ["infra", "succeeded"]
    assert platform.versions() == 1
    story = platform.story(job_id)
    assert story.count("stage.started publishing") == 1
    assert story.count("job.succeeded") == 1


@pytest.mark.failure("broker flushed")
def test_a_flushed_broker_loses_no_job(platform: Platform) -> None:
    job_id = platform.submit()
    platform.courier.send(job_id)
    broker = redis.Redis.from_url(platform.queue_url)
    broker.flushall()
    platform.scheduler()
    platform.worker("w1")
    platform.until_status(job_id, JobStatus.SUCCEEDED)

    broker.flushall()  # under a consumer that has been listening
    broker.close()
    second = platform.submit()
    platform.until_status(second, JobStatus.SUCCEEDED)


@pytest.mark.failure("broker flushed")
def test_a_lost_message_is_sent_again(platform: Platform) -> None:
    with platform.database.transaction() as tx:
        jobs.workers.report(tx, name="w1", device="cpu", local_models=["base"])
    platform.scheduler()
    job_id = platform.submit()
    until(lambda: platform.job(job_id).offered_at is not None, what="offer")
    with redis.Redis.from_url(platform.queue_url) as broker:
        until(lambda: broker.llen("gpu") == 1, what="message")
        broker.flushall()
    with platform.database.transaction() as tx:
        tx.execute(text("UPDATE jobs SET offered_at = now() - interval '16 s'"))
    platform.worker("w1")
    platform.until_status(job_id, JobStatus.SUCCEEDED)


def test_a_worker_listens_again_after_the_broker_was_away(platform: Platform) -> None:
    with Gate(port_of(platform.queue_url)) as gate:
        url = platform.queue_url.replace(f":{port_of(platform.queue_url)}", f":{gate.port}")
        platform.worker(BITSMITH_QUEUE_URL=url)
        gate.shut()
        worker = platform.children[-1]
        until(lambda: "Connection refused" in worker.log.read_text(), what="noticing")
        gate.open()
        job_id = platform.submit()
        platform.courier.send(job_id)
        platform.until_status(job_id, JobStatus.SUCCEEDED)


def test_a_worker_listens_again_after_the_broker_was_away_during_a_job(platform: Platform) -> None:
    go = platform.folder / "go"
    with Gate(port_of(platform.queue_url)) as gate:
        url = platform.queue_url.replace(f":{port_of(platform.queue_url)}", f":{gate.port}")
        platform.worker(BITSMITH_QUEUE_URL=url)
        first = platform.submit(act="wait", gate=str(go))
        platform.courier.send(first)
        platform.until_training(first)
        gate.shut()
        gate.open()
        go.touch()
        platform.until_status(first, JobStatus.SUCCEEDED)
        second = platform.submit()
        platform.courier.send(second)
        platform.until_status(second, JobStatus.SUCCEEDED)


@pytest.mark.failure("store away")
def test_an_outage_of_the_object_store_is_waited_out(platform: Platform) -> None:
    go = platform.folder / "go"
    with Gate(port_of(platform.storage.endpoint)) as gate:
        worker = platform.worker(BITSMITH_STORAGE_ENDPOINT=f"127.0.0.1:{gate.port}")
        job_id = platform.submit(act="wait", gate=str(go))
        platform.courier.send(job_id)
        platform.until_training(job_id)
        gate.shut()
        go.touch()
        until(lambda: "store.retry" in worker.log.read_text(), what="noticing")
        assert platform.job(job_id).status == JobStatus.RUNNING
        gate.open()
        platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert platform.outcomes(job_id) == ["succeeded"]


@pytest.mark.failure("postgres restarted")
def test_training_goes_on_while_postgres_is_away(platform: Platform) -> None:
    go = platform.folder / "go"
    with Gate(port_of(platform.database_url)) as gate:
        url = platform.database_url.replace(f":{port_of(platform.database_url)}", f":{gate.port}")
        worker = platform.worker(BITSMITH_DATABASE_URL=url, BITSMITH_WORKER_LEASE_S="30")
        job_id = platform.submit(act="wait", gate=str(go))
        platform.courier.send(job_id)
        engine = platform.until_training(job_id)
        gate.shut()
        until(lambda: "journal.waiting" in worker.log.read_text(), what="noticing")
        go.touch()
        until(lambda: not psutil.pid_exists(engine), what="the engine's end")  # it never had to wait for Postgres
        gate.open()
        platform.until_status(job_id, JobStatus.SUCCEEDED)

    assert platform.outcomes(job_id) == ["succeeded"]
    assert platform.story(job_id)[-6:] == [
        "stage.finished measuring",
        "stage.started training",
        "stage.finished training",
        "stage.started publishing",
        "stage.finished publishing",
        "job.succeeded",
    ]


@pytest.mark.failure("postgres restarted")
def test_an_attempt_that_cannot_reach_postgres_ends_itself_before_another_may_start(platform: Platform) -> None:
    with Gate(port_of(platform.database_url)) as gate:
        url = platform.database_url.replace(f":{port_of(platform.database_url)}", f":{gate.port}")
        platform.worker(BITSMITH_DATABASE_URL=url, BITSMITH_WORKER_LEASE_S="6")
        job_id = platform.submit(act="stubborn", gate=str(platform.folder / "never"))
        platform.courier.send(job_id)
        engine = platform.until_training(job_id)
        gate.shut()
        cut_off = time.monotonic()
        until(lambda: not psutil.pid_exists(engine), what="the engine's end")
        assert time.monotonic() - cut_off < 6
        assert platform.outcomes(job_id) == [None]  # it could not say so


def test_a_leaving_worker_gives_its_job_back_at_no_cost(platform: Platform) -> None:
    platform.scheduler()
    leaving = platform.worker("w1")
    go = platform.folder / "go"
    job_id = platform.submit(act="wait", gate=str(go))
    engine = platform.until_training(job_id)

    started = time.monotonic()
    leaving.stop()
    assert time.monotonic() - started < 11
    assert not psutil.pid_exists(engine)
    assert platform.outcomes(job_id) == ["yield"]
    assert platform.job(job_id).status == JobStatus.QUEUED

    go.touch()
    platform.worker("w2")
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert resumed_stages(platform, job_id) == {"measuring"}


def to_group(pid: int) -> None:
    os.killpg(pid, signal.SIGTERM)


def ctrl_c(pid: int) -> None:
    os.killpg(pid, signal.SIGINT)


@pytest.mark.parametrize("tell", [to_group, ctrl_c])
def test_however_a_worker_is_told_to_leave_it_does_so_in_order(platform: Platform, tell: Callable[[int], None]) -> None:
    worker = platform.worker()
    job_id = platform.submit(act="wait", gate=str(platform.folder / "never"))
    platform.courier.send(job_id)
    engine = platform.until_training(job_id)
    assert worker.pid is not None
    tell(worker.pid)
    until(lambda: not worker.is_running(), within_s=11, what="the worker's end")
    assert platform.outcomes(job_id) == ["yield"]
    assert not psutil.pid_exists(engine)
    assert not platform.is_present("w1")
    assert "worker.left" in worker.log.read_text()


def test_a_worker_can_leave_while_the_broker_is_away(platform: Platform) -> None:
    with Gate(port_of(platform.queue_url)) as gate:
        url = platform.queue_url.replace(f":{port_of(platform.queue_url)}", f":{gate.port}")
        worker = platform.worker(BITSMITH_QUEUE_URL=url)
        gate.shut()
        until(lambda: "Connection refused" in worker.log.read_text(), what="noticing")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: not worker.is_running(), within_s=10, what="the worker's end")
    assert not platform.is_present("w1")


@pytest.mark.parametrize("delay_s", [0.1, 0.3])
@pytest.mark.failure("cancel races success")
def test_a_cancel_that_races_success_has_one_winner(platform: Platform, delay_s: float) -> None:
    platform.worker()
    go = platform.folder / "go"
    job_id = platform.submit(act="wait", gate=str(go))
    platform.courier.send(job_id)
    platform.until_training(job_id)
    go.touch()
    time.sleep(delay_s)  # not a synchronisation: it only varies who is first
    try:
        with platform.database.transaction() as tx:
            jobs.cancel(tx, job_id)
    except IllegalTransition:
        assert platform.job(job_id).status == JobStatus.SUCCEEDED
    platform.until_status(job_id, JobStatus.SUCCEEDED, JobStatus.CANCELLED)
    assert platform.versions() == (1 if platform.job(job_id).status == JobStatus.SUCCEEDED else 0)
