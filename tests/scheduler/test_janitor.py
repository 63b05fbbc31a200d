"""What the janitor promises: nothing that a row names is ever deleted, and what none names goes when it is old."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from bitsmith_core import jobs
from bitsmith_core.clock import utc_now
from bitsmith_core.db import Database
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import S3Store
from bitsmith_scheduler.janitor import forget, sweep_jobs
from bitsmith_scheduler.settings import SchedulerSettings
from sqlalchemy import text

from tests.conftest import add_file

DAY = timedelta(days=1)


@pytest.fixture
def lease(database: Database) -> jobs.Lease:
    """Of a running attempt."""
    with database.transaction() as tx:
        spec = JobSpec(model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx))
        job_id = jobs.submit(tx, spec, project=DEFAULT_PROJECT).id
        lease = jobs.claim(tx, job_id, worker="w1", ttl=timedelta(minutes=1))
        assert lease is not None
        return lease


@pytest.fixture
def store_below(store: S3Store, lease: jobs.Lease) -> Iterator[S3Store]:
    yield store
    for found in list(store.list("jobs/")):
        store.delete(found.key)


def put(store: S3Store, folder: Path, *keys: str) -> None:
    (folder / "object").write_bytes(b"x")
    for key in keys:
        store.put_file(key, folder / "object")


def stored(store: S3Store, lease: jobs.Lease) -> set[str]:
    below = f"jobs/{lease.job_id}/"
    return {found.key.removeprefix(below) for found in store.list(below)}


def test_only_what_no_row_names_and_is_old_goes(
    database: Database, store_below: S3Store, lease: jobs.Lease, tmp_path: Path
) -> None:
    prefix, label = lease.prefix, lease.label
    put(store_below, tmp_path, f"{prefix}/stages/training/w", f"{prefix}/stages/lost/w", f"{prefix}/logs/000000.log")
    put(store_below, tmp_path, f"{prefix}/stages/training-2/w", f"jobs/{lease.job_id}/a9-deadbeef/artifacts/w")
    with database.transaction() as tx:
        jobs.keep_checkpoint(tx, lease, stage="training", prefix=f"{prefix}/stages/training", files=["w"])
        jobs.keep_log(tx, lease, number=0, object_key=f"{prefix}/logs/000000.log", size_bytes=1, lines=1)

    assert sweep_jobs(database, store_below, older_than=utc_now() - DAY) == 0, "all is young"
    sweep_jobs(database, store_below, older_than=utc_now() + DAY)
    ours = {f"{label}/stages/training/w", f"{label}/logs/000000.log"}
    others = {f"{label}/stages/lost/w", f"{label}/stages/training-2/w"}
    assert stored(store_below, lease) == ours | others, "a running attempt may still name what it put there"

    with database.transaction() as tx:
        jobs.cancel(tx, lease.job_id)
        jobs.stopped(tx, lease)
    sweep_jobs(database, store_below, older_than=utc_now() + DAY)
    assert stored(store_below, lease) == ours


def test_checkpoints_and_logs_go_some_time_after_their_job_is_over(
    database: Database, store_below: S3Store, lease: jobs.Lease
) -> None:
    settings = SchedulerSettings(checkpoints_kept_s=3600, logs_kept_s=7200)

    def left() -> tuple[int, int]:
        with database.transaction() as tx:
            return len(jobs.checkpoints(tx, lease.job_id)), len(jobs.chunks.logs(tx, lease.job_id))

    with database.transaction() as tx:
        jobs.keep_checkpoint(tx, lease, stage="training", prefix="p", files=["w"])
        jobs.keep_log(tx, lease, number=0, object_key="k", size_bytes=1, lines=1)
    forget(database, settings)
    assert left() == (1, 1), "it runs"
    with database.transaction() as tx:
        jobs.finish(tx, lease, result="m@1")
    for hours, expected in ((0.9, (1, 1)), (1.1, (0, 1)), (2.1, (0, 0))):
        with database.transaction() as tx:
            tx.execute(text("UPDATE jobs SET finished_at = now() - :age"), {"age": timedelta(hours=hours)})
            for table in ("checkpoints", "log_chunks"):  # made before the end
                tx.execute(text(f"UPDATE {table} SET created_at = now() - :age"), {"age": timedelta(hours=hours + 1)})
        forget(database, settings)
        assert left() == expected


def test_one_look_forgets_the_logs_of_however_many_jobs_are_long_over(database: Database, lease: jobs.Lease) -> None:
    with database.transaction() as tx:
        tx.execute(
            text(
                """
                INSERT INTO jobs (id, project_id, spec, spec_sha256, base_model, training_file, validation_file, status,
                                  created_at, finished_at)
                SELECT 'ftjob-' || n, project_id, spec, spec_sha256, base_model, training_file, validation_file,
                       'succeeded', now() - interval '1 year', now() - interval '1 year'
                FROM jobs, generate_series(1, 250) n
                """
            )
        )
        tx.execute(
            text(
                """
                INSERT INTO log_chunks (job_id, attempt, number, object_key, bytes, lines, created_at)
                SELECT 'ftjob-' || n, 1, 0, 'k' || n, 1, 1, now() - interval '1 year' FROM generate_series(1, 250) n
                """
            )
        )
    forget(database, SchedulerSettings())
    with database.transaction() as tx:
        assert tx.scalar(text("SELECT count(*) FROM log_chunks")) == 0


def test_workers_that_went_without_a_word_are_forgotten_after_a_day(database: Database) -> None:
    with database.transaction() as tx:
        for name, hours in (("here", 0), ("lately", 23), ("gone", 25)):
            jobs.workers.report(tx, name=name, device="cpu", local_models=[])
            tx.execute(
                text("UPDATE workers SET seen_at = now() - :age WHERE name = :name"),
                {"age": timedelta(hours=hours), "name": name},
            )
    forget(database, SchedulerSettings())
    with database.transaction() as tx:
        assert set(tx.scalars(text("SELECT name FROM workers"))) == {"here", "lately"}
