"""What the scheduler promises: one acts, and neither Postgres nor the broker going away makes it forget anything."""

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.queue import Courier
from bitsmith_core.settings import DatabaseSettings, QueueSettings
from bitsmith_core.spec import JobSpec
from bitsmith_scheduler.dispatch import dispatch
from bitsmith_scheduler.leader import Leader
from bitsmith_scheduler.main import run
from bitsmith_scheduler.relay import Relay
from bitsmith_scheduler.settings import SchedulerSettings
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import capture_logs

from tests.conftest import add_file
from tests.worker.conftest import port_of, until
from tests.worker.gate import Gate

MINUTE = timedelta(minutes=1)


@pytest.fixture
def broker(queue_settings: QueueSettings) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(queue_settings.url.get_secret_value()) as broker:
        broker.flushall()
        yield broker
        broker.flushall()


@contextmanager
def running(database: Database, courier: Courier) -> Iterator[None]:
    """The scheduler's loop in a thread."""
    stop = threading.Event()
    loop = threading.Thread(target=run, args=(database, courier, SchedulerSettings(interval_s=0.05), stop))
    loop.start()
    try:
        yield
    finally:
        stop.set()
        loop.join()


@contextmanager
def through(gate: Gate, settings: DatabaseSettings) -> Iterator[Database]:
    url = settings.url.get_secret_value()
    database = Database(DatabaseSettings(url=SecretStr(url.replace(f":{port_of(url)}", f":{gate.port}"))))
    try:
        yield database
    finally:
        database.close()


def submit(database: Database) -> JobId:
    with database.transaction() as tx:
        spec = JobSpec(model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx))
        return jobs.submit(tx, spec, project=DEFAULT_PROJECT).id


def job(database: Database, job_id: JobId) -> jobs.Job:
    with database.transaction() as tx:
        return jobs.get(tx, job_id)


def report_worker(database: Database) -> None:
    with database.transaction() as tx:
        jobs.workers.report(tx, name="w1", device="cpu", local_models=[])


def unsent(database: Database) -> int:
    with database.transaction() as tx:
        return len(jobs.outbox.unsent(tx, limit=1000))


def offered(broker: redis.Redis) -> set[str]:
    """Jobs with a message; cut off between sending one and noting that, the scheduler sends it once more."""
    return {word for message in broker.lrange("gpu", 0, -1) for word in re.findall(r"ftjob-\w+", str(message))}


def test_a_waiting_job_reaches_the_broker(database: Database, courier: Courier, broker: redis.Redis) -> None:
    report_worker(database)
    job_id = submit(database)
    with running(database, courier):
        until(lambda: broker.llen("gpu") == 1, what="message")
    assert job_id.encode() in broker.lrange("gpu", 0, -1)[0]
    assert unsent(database) == 0


def test_a_silent_worker_s_job_waits_again(database: Database, courier: Courier, broker: redis.Redis) -> None:
    job_id = submit(database)
    with database.transaction() as tx:
        assert jobs.claim(tx, job_id, worker="dead", ttl=MINUTE)
        tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    with running(database, courier):
        until(lambda: job(database, job_id).status == "queued", what="reaping")


def test_of_two_schedulers_one_leads_and_the_other_takes_over(database: Database) -> None:
    with Leader(database) as second:
        with Leader(database) as first:
            assert first.is_leading()
            assert not second.is_leading()
            assert first.is_leading()
        until(second.is_leading, what="takeover")


def test_a_leader_whose_connection_died_leads_no_longer(
    database: Database, database_settings: DatabaseSettings
) -> None:
    port = port_of(database_settings.url.get_secret_value())
    with (
        Gate(port) as gate,
        through(gate, database_settings) as cut_off,
        Leader(cut_off) as first,
        Leader(database) as second,
    ):
        assert first.is_leading()
        gate.shut()
        until(second.is_leading, what="takeover")
        gate.open()
        with pytest.raises(DatabaseUnavailable):
            first.is_leading()
        assert not first.is_leading()
        assert second.is_leading()


def test_the_loop_survives_postgres_going_away(
    database: Database, database_settings: DatabaseSettings, courier: Courier, broker: redis.Redis
) -> None:
    port = port_of(database_settings.url.get_secret_value())
    with Gate(port) as gate, through(gate, database_settings) as through_gate, running(through_gate, courier):
        report_worker(database)
        first = submit(database)
        until(lambda: offered(broker) == {first}, what="first message")
        gate.shut()
        with database.transaction() as tx:
            jobs.workers.report(tx, name="w2", device="cpu", local_models=[])
        second = submit(database)
        gate.open()
        until(lambda: offered(broker) == {first, second}, what="second message")


def test_an_absent_broker_leaves_messages_unsent_until_it_is_back(
    database: Database, queue_settings: QueueSettings, broker: redis.Redis
) -> None:
    url = queue_settings.url.get_secret_value()
    report_worker(database)
    job_id = submit(database)
    with capture_logs() as said, Gate(port_of(url)) as gate:
        courier = Courier(QueueSettings(url=SecretStr(url.replace(f":{port_of(url)}", f":{gate.port}"))))
        gate.shut()
        dispatch(database)
        relay = Relay(database, courier)
        for _ in range(3):
            relay.relay()
            assert unsent(database) == 1
        gate.open()
        relay.relay()
        courier.close()
    assert job_id.encode() in broker.lrange("gpu", 0, -1)[0]
    assert unsent(database) == 0
    assert [line["event"] for line in said if line["event"].startswith("broker.")] == [
        "broker.unavailable",
        "broker.restored",
    ]


def test_an_absent_broker_does_not_keep_the_scheduler_from_reaping(
    database: Database, queue_settings: QueueSettings
) -> None:
    url = queue_settings.url.get_secret_value()
    report_worker(database)
    offered, silent = submit(database), submit(database)
    with Gate(port_of(url)) as gate:
        courier = Courier(QueueSettings(url=SecretStr(url.replace(f":{port_of(url)}", f":{gate.port}"))))
        gate.shut()
        with running(database, courier):
            until(lambda: job(database, offered).offered_at is not None, what="offer")
            with database.transaction() as tx:
                assert jobs.claim(tx, silent, worker="dead", ttl=MINUTE)
                tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE status = 'running'"))
            until(lambda: job(database, silent).status == "queued", within_s=5, what="reaping")
        courier.close()


def test_offers_that_piled_up_for_one_job_are_one_message(
    database: Database, courier: Courier, broker: redis.Redis
) -> None:
    job_id = submit(database)
    with database.transaction() as tx:
        for _ in range(5):
            jobs.outbox.put(tx, jobs.outbox.JOB_OFFERED, {"job_id": job_id})
    Relay(database, courier).relay()
    assert broker.llen("gpu") == 1
    assert unsent(database) == 0


def test_an_offer_goes_to_the_queue_of_its_pool_and_one_without_a_pool_to_the_default_one(
    database: Database, courier: Courier, broker: redis.Redis
) -> None:
    """A scheduler of the release before names none in the outbox."""
    with database.transaction() as tx:
        jobs.outbox.put(tx, jobs.outbox.JOB_OFFERED, {"job_id": "ftjob-old"})
        jobs.outbox.put(tx, jobs.outbox.JOB_OFFERED, {"job_id": "ftjob-big", "pool": "h100"})
    Relay(database, courier).relay()
    assert (broker.llen("gpu"), broker.llen("gpu.h100")) == (1, 1)


def test_what_was_sent_long_ago_is_forgotten(database: Database, courier: Courier) -> None:
    with database.transaction() as tx:
        for _ in range(3):
            jobs.outbox.put(tx, jobs.outbox.JOB_OFFERED, {"job_id": "ftjob-x"})
        tx.flush()
        tx.execute(text("UPDATE outbox SET sent_at = now() - interval '25 h' WHERE id = 1"))
        tx.execute(text("UPDATE outbox SET sent_at = now() - interval '23 h' WHERE id = 2"))
    Relay(database, courier).prune()
    with database.transaction() as tx:
        assert list(tx.scalars(text("SELECT id FROM outbox ORDER BY id"))) == [2, 3]


def test_sigterm_ends_it_cleanly(
    tmp_path: Path, database_settings: DatabaseSettings, queue_settings: QueueSettings
) -> None:
    log = tmp_path / "scheduler.log"
    spec = ChildSpec(
        name="scheduler",
        command=[sys.executable, "-m", "bitsmith_scheduler"],
        is_ready=lambda: log.exists() and "leader.elected" in log.read_text(),
        environment={
            "BITSMITH_DATABASE_URL": database_settings.url.get_secret_value(),
            "BITSMITH_QUEUE_URL": queue_settings.url.get_secret_value(),
        },
        stop_signal=signal.SIGTERM,
    )
    child = Child(spec, tmp_path)
    child.start()
    child.wait_ready()
    child.stop()
    assert "scheduler.stopped" in log.read_text()
    assert "Traceback" not in log.read_text()
