"""What nodes that help a worker see of it: its live lease, and nothing of one that is over or ran out."""

from datetime import timedelta

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Tx
from bitsmith_core.errors import LeaseLost
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass
from sqlalchemy import text

MINUTE = timedelta(minutes=1)


@pytest.fixture
def lease(tx: Tx, spec: JobSpec) -> jobs.Lease:
    job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    tx.flush()
    lease = jobs.claim(tx, job.id, worker="gang", ttl=MINUTE)
    assert lease is not None
    return lease


def test_a_node_sees_the_very_lease_of_its_worker_and_nobody_elses(tx: Tx, lease: jobs.Lease) -> None:
    assert jobs.lease_of(tx, "gang") == lease
    assert jobs.lease_of(tx, "other") is None


def test_it_sees_nothing_of_an_attempt_that_is_over(tx: Tx, lease: jobs.Lease) -> None:
    jobs.stopped(tx, lease)
    tx.flush()
    assert jobs.lease_of(tx, "gang") is None


def test_it_sees_nothing_of_a_lease_that_ran_out(tx: Tx, lease: jobs.Lease) -> None:
    tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    assert jobs.lease_of(tx, "gang") is None


def test_a_node_that_fails_takes_the_attempt_from_its_worker(tx: Tx, lease: jobs.Lease) -> None:
    seen = jobs.lease_of(tx, "gang")
    assert seen is not None
    jobs.fail(tx, seen, Failed(failure=FailureClass.INFRA, code="node_lost", message="Away."))
    tx.flush()
    with pytest.raises(LeaseLost):
        jobs.extend(tx, lease, ttl=MINUTE)
