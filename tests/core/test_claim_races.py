"""Two workers, one job, at the same moment: exactly one gets it, every time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.settings import DatabaseSettings
from bitsmith_core.spec import JobSpec
from sqlalchemy import text

from tests.conftest import add_file

ROUNDS = 200
MINUTE = timedelta(minutes=1)


def submitted(database: Database) -> list[JobId]:
    with database.transaction() as tx:
        spec = JobSpec(model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx))
        return [jobs.submit(tx, spec, project=DEFAULT_PROJECT).id for _ in range(ROUNDS)]


def race(settings: DatabaseSettings, job_ids: list[JobId]) -> list[list[jobs.Lease]]:
    """Two claimers with connections of their own go for each job at once; who won, job by job."""
    start = threading.Barrier(2)

    def claimer(name: str) -> list[jobs.Lease | None]:
        database = Database(settings)
        try:
            got = []
            for job_id in job_ids:
                start.wait(timeout=30)
                with database.transaction() as tx:
                    got.append(jobs.claim(tx, job_id, worker=name, ttl=MINUTE))
            return got
        finally:
            database.close()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(claimer, ["w1", "w2"])
    return [[lease for lease in pair if lease is not None] for pair in zip(first, second, strict=True)]


@pytest.mark.failure("claims race")
def test_of_two_claims_at_once_exactly_one_wins(database: Database, database_settings: DatabaseSettings) -> None:
    job_ids = submitted(database)
    assert [len(winners) for winners in race(database_settings, job_ids)] == [1] * ROUNDS
    with database.transaction() as tx:
        assert all(len(jobs.attempts(tx, job_id)) == 1 for job_id in job_ids)


@pytest.mark.failure("claims race")
def test_of_two_takeovers_of_a_lapsed_job_exactly_one_wins(
    database: Database, database_settings: DatabaseSettings
) -> None:
    job_ids = submitted(database)
    with database.transaction() as tx:
        for job_id in job_ids:
            assert jobs.claim(tx, job_id, worker="dead", ttl=MINUTE)
        tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    assert [len(winners) for winners in race(database_settings, job_ids)] == [1] * ROUNDS
    with database.transaction() as tx:
        assert [[attempt.outcome for attempt in jobs.attempts(tx, job_id)] for job_id in job_ids] == [
            ["infra", None]
        ] * ROUNDS
