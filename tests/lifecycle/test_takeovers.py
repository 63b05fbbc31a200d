"""A worker that is lost counts against the budget, whoever notices it: the scheduler, or the next worker."""

from datetime import timedelta

from bitsmith_core import jobs
from bitsmith_core.db import Tx
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.spec import JobSpec
from sqlalchemy import text

from tests.lifecycle.history import TRIES


def test_a_job_that_loses_every_worker_is_not_taken_over_for_ever(tx: Tx, spec: JobSpec) -> None:
    job_id = jobs.submit(tx, spec, project=DEFAULT_PROJECT).id
    lost = 0
    while lost < 20 and jobs.claim(tx, job_id, worker="w1", ttl=timedelta(minutes=1)) is not None:
        tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
        lost += 1
    assert lost == TRIES["infra"]
    assert jobs.reap(tx) == [job_id]
    tx.expire_all()
    assert jobs.get(tx, job_id).status == "failed"
