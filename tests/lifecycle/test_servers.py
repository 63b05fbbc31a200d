"""Servers die under twenty jobs, in training and in publishing: nothing is lost, nothing is there twice."""

import json
from collections import Counter
from functools import partial

import psutil
import pytest
import redis
from bitsmith_client.lab.child import Child
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import JobStatus
from sqlalchemy import text

from tests.worker.conftest import Platform, until

MANY = 20
WORKERS = ("w1", "w2", "w3")


def ended(platform: Platform, job_ids: list[JobId]) -> Counter[str]:
    with platform.database.transaction() as tx:
        return Counter(jobs.get(tx, job_id).status for job_id in job_ids)


def published(platform: Platform) -> Counter[str]:
    """How many versions each job made."""
    with platform.database.transaction() as tx:
        return Counter(tx.scalars(text("SELECT job_id FROM versions")))


def exporters(platform: Platform, job_id: JobId) -> set[str]:
    """The attempts that have put artifacts into the store: each leaves its name there."""
    small = [info for info in platform.store.list("blobs/") if info.bytes < 100]
    contents = [platform.store.read(info.key, offset=0, length=100).decode(errors="replace") for info in small]
    return {content.removeprefix(f"{job_id}-") for content in contents if content.startswith(job_id)}


def forget_offers(database: Database) -> None:
    """As if the time after which a message counts as lost were over."""
    with database.transaction() as tx:
        tx.execute(text("UPDATE jobs SET offered_at = offered_at - interval '16 s' WHERE offered_at IS NOT NULL"))


@pytest.mark.failure("broker flushed")
def test_twenty_jobs_outlive_a_broker_that_forgets_everything_again_and_again(platform: Platform) -> None:
    platform.scheduler()
    for name in WORKERS:
        platform.start_worker(name)
    for name in WORKERS:
        until(partial(platform.is_present, name), what=name)
    job_ids = [platform.submit() for _ in range(MANY)]

    flushed_at = 0
    with redis.Redis.from_url(platform.queue_url) as broker:

        def is_over() -> bool:
            nonlocal flushed_at
            counts = ended(platform, job_ids)
            done = counts[JobStatus.SUCCEEDED]
            if done >= flushed_at + 4 and counts[JobStatus.RUNNING]:  # every time that some have finished
                broker.flushall()
                forget_offers(platform.database)
                flushed_at = done
            return done == MANY

        broker.flushall()
        until(is_over, within_s=150, what="the end of all jobs")
    assert flushed_at >= 8, "it was flushed while jobs were queued and running"
    assert published(platform) == Counter(job_ids)
    assert [platform.outcomes(job_id) for job_id in job_ids] == [["succeeded"]] * MANY


@pytest.mark.failure("postgres restarted")
def test_training_outlives_a_crash_of_postgres(platform: Platform, postgres: Child) -> None:
    go = platform.folder / "go"
    platform.scheduler()
    worker = platform.worker(BITSMITH_WORKER_LEASE_S="60")
    job_id = platform.submit(act="wait", gate=str(go))
    engine = platform.until_training(job_id)

    postgres.kill()
    until(lambda: "journal.waiting" in worker.log.read_text(), what="noticing")
    assert psutil.pid_exists(engine), "training goes on"
    go.touch()
    until(lambda: not psutil.pid_exists(engine), what="the engine's end")  # it never had to wait for Postgres
    postgres.start()
    postgres.wait_ready()
    platform.until_status(job_id, JobStatus.SUCCEEDED)

    assert platform.outcomes(job_id) == ["succeeded"]
    assert published(platform) == {job_id: 1}
    with platform.database.transaction() as tx:
        numbers = [event.seq for event in jobs.events_after(tx, job_id, seq=0, limit=10_000)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert platform.story(job_id)[-4:] == [
        "stage.finished training", "stage.started publishing", "stage.finished publishing", "job.succeeded",
    ]  # fmt: skip


@pytest.mark.failure("postgres restarted")
def test_after_an_outage_longer_than_the_lease_only_the_new_owner_publishes(
    platform: Platform, postgres: Child
) -> None:
    go = platform.folder / "go"
    platform.scheduler()
    old = platform.worker("w1")
    job_id = platform.submit(act="wait", gate=str(go))
    engine = platform.until_training(job_id)

    postgres.kill()
    until(lambda: not psutil.pid_exists(engine), what="the engine's end")  # it may not go on without its lease
    go.touch()
    postgres.start()
    postgres.wait_ready()
    platform.until_status(job_id, JobStatus.SUCCEEDED)

    assert "attempt.fell_silent" in old.log.read_text()
    assert platform.outcomes(job_id) == ["infra", "succeeded"]
    assert published(platform) == {job_id: 1}
    assert {attempt.partition("-")[0] for attempt in exporters(platform, job_id)} == {"a2"}


@pytest.mark.slow
@pytest.mark.failure("postgres restarted")
def test_postgres_that_hangs_instead_of_dying_is_no_different(platform: Platform, postgres: Child) -> None:
    go = platform.folder / "go"
    platform.worker("w1")
    job_id = platform.submit(act="stubborn", gate=str(go))
    platform.courier.send(job_id)
    engine = platform.until_training(job_id)
    assert postgres.pid is not None
    family = [psutil.Process(postgres.pid), *psutil.Process(postgres.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        until(lambda: not psutil.pid_exists(engine), within_s=10, what="the engine's end")
    finally:
        for process in family:
            process.resume()
    go.touch()
    platform.scheduler()
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert platform.outcomes(job_id) == ["infra", "succeeded"]
    assert published(platform) == {job_id: 1}


@pytest.mark.failure("store away")
def test_a_store_that_dies_during_a_checkpoint_and_returns_costs_nothing(platform: Platform, seaweedfs: Child) -> None:
    go = platform.folder / "go"
    platform.scheduler()
    worker = platform.worker()
    job_id = platform.submit(act="train", gate=str(go), hold_at="15 25")
    until(lambda: platform.steps_kept(job_id) == [10], what="the first checkpoint")

    seaweedfs.kill()
    go.with_name("go-15").touch()
    until(lambda: platform.job(job_id).progress.get("done") == 25, what="training without a store")
    until(lambda: "store.retry" in worker.log.read_text(), what="noticing")
    seaweedfs.start()
    seaweedfs.wait_ready()
    until(lambda: platform.steps_kept(job_id) == [10, 20], what="the second checkpoint")
    go.touch()
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert platform.outcomes(job_id) == ["succeeded"]
    assert published(platform) == {job_id: 1}


def waited_s(worker: Child) -> float:
    """How long it has waited for the store, by its own words."""
    said = [json.loads(line) for line in worker.log.read_text().splitlines() if "store.retry" in line]
    return max((float(line["waited_s"]) for line in said), default=0.0)


def outage_while_publishing(platform: Platform, seaweedfs: Child, *, seconds: float) -> None:
    go = platform.folder / "go"
    platform.scheduler()
    worker = platform.worker()
    job_id = platform.submit(act="wait", gate=str(go))
    platform.until_training(job_id)

    seaweedfs.kill()
    go.touch()
    until(lambda: "stage.started publishing" in platform.story(job_id), what="publishing")
    until(lambda: waited_s(worker) > seconds, within_s=seconds + 60, what="waiting")
    assert platform.job(job_id).status == JobStatus.RUNNING
    seaweedfs.start()
    seaweedfs.wait_ready()
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert platform.outcomes(job_id) == ["succeeded"]
    assert published(platform) == {job_id: 1}


@pytest.mark.slow
@pytest.mark.failure("store away")
def test_a_store_that_dies_before_the_model_is_published_is_waited_for(platform: Platform, seaweedfs: Child) -> None:
    outage_while_publishing(platform, seaweedfs, seconds=1)


@pytest.mark.slow
@pytest.mark.failure("store away")
@pytest.mark.timeout(400)
def test_minutes_of_that_make_no_difference(platform: Platform, seaweedfs: Child) -> None:
    outage_while_publishing(platform, seaweedfs, seconds=120)
