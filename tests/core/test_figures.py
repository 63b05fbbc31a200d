"""What is counted for good and what is counted when somebody asks make one number, whenever the tally was taken."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Database, Tx
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.jobs import figures
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass
from sqlalchemy import text

from tests.conftest import add_file

MINUTE = timedelta(minutes=1)


def ended(tx: Tx, *, failure: FailureClass | None = None) -> None:
    """A job whose only attempt took 30 s of one device and ended an hour ago."""
    spec = JobSpec(model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx))
    job_id = jobs.submit(tx, spec, project=DEFAULT_PROJECT).id
    lease = jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE)
    assert lease is not None
    if failure is None:
        jobs.finish(tx, lease, result="m@1")
    else:
        jobs.fail(tx, lease, Failed(failure=failure, code="broke", message="It broke."))
    tx.flush()
    tx.execute(
        text("UPDATE attempts SET ended_at = now() - interval '1 h', gpu_seconds = 30 WHERE job_id = :id"),
        {"id": job_id},
    )
    tx.execute(
        text("UPDATE jobs SET finished_at = now() - interval '1 h' WHERE id = :id AND finished_at IS NOT NULL"),
        {"id": job_id},
    )
    tx.expire_all()


def told(tx: Tx) -> tuple[object, ...]:
    attempts = {(each.outcome, each.reason): each.count for each in figures.attempts_ended(tx)}
    return dict(figures.by_status(tx)), attempts, dict(figures.gpu_seconds(tx))


def rows_tallied(tx: Tx) -> int:
    return tx.scalar(text("SELECT coalesce(sum(count), 0) FROM tallies")) or 0


def test_a_tally_changes_no_figure(tx: Tx, spec: JobSpec) -> None:
    ended(tx)
    ended(tx, failure=FailureClass.DATA)
    jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    expected = (
        {"queued": 1, "succeeded": 1, "failed": 1},
        {("succeeded", ""): 1, ("data", "broke"): 1},
        {DEFAULT_PROJECT: 60.0},
    )
    assert told(tx) == expected
    figures.tally(tx)
    assert rows_tallied(tx) == 4, "two jobs and two attempts"
    assert told(tx) == expected
    figures.tally(tx)
    assert told(tx) == expected


def test_what_ends_after_a_tally_is_told_at_once_and_tallied_next_time(tx: Tx) -> None:
    ended(tx)
    tx.execute(text("UPDATE attempts SET ended_at = ended_at - interval '1 h'"))
    tx.execute(text("UPDATE jobs SET finished_at = finished_at - interval '1 h'"))
    figures.tally(tx)
    tx.execute(text("UPDATE tallies SET until = now() - interval '90 min'"))  # as if it was taken then
    ended(tx)
    expected = ({"succeeded": 2}, {("succeeded", ""): 2}, {DEFAULT_PROJECT: 60.0})
    assert told(tx) == expected
    figures.tally(tx)
    assert rows_tallied(tx) == 4
    assert told(tx) == expected


def test_what_ended_a_moment_ago_waits_for_a_later_tally(tx: Tx) -> None:
    ended(tx)
    tx.execute(text("UPDATE attempts SET ended_at = now() - interval '1 min'"))
    tx.execute(text("UPDATE jobs SET finished_at = now() - interval '1 min'"))
    figures.tally(tx)
    assert rows_tallied(tx) == 0, "a transaction that began before it may still commit an end"
    assert told(tx) == ({"succeeded": 1}, {("succeeded", ""): 1}, {DEFAULT_PROJECT: 30.0})


def test_tallies_taken_at_once_count_nothing_twice(database: Database) -> None:
    with database.transaction() as tx:
        for _ in range(3):
            ended(tx)

    def tally(_: int) -> None:
        with database.transaction() as tx:
            figures.tally(tx)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(tally, range(6)))
    with database.transaction() as tx:
        assert rows_tallied(tx) == 6
        assert told(tx) == ({"succeeded": 3}, {("succeeded", ""): 3}, {DEFAULT_PROJECT: pytest.approx(90.0)})
