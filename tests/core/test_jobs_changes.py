"""What people may change about a job: its wishes, its priority, its metadata; and what a stale change meets."""

from datetime import timedelta

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Tx
from bitsmith_core.errors import Conflict, IllegalTransition, PreconditionFailed
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.jobs import DesiredState, JobStatus
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass
from sqlalchemy import text

MINUTE = timedelta(minutes=1)


@pytest.fixture
def job_id(tx: Tx, spec: JobSpec) -> JobId:
    return jobs.submit(tx, spec, project=DEFAULT_PROJECT).id


def claimed(tx: Tx, job_id: JobId) -> jobs.Lease:
    lease = jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE)
    assert lease is not None
    return lease


def told(tx: Tx, job_id: JobId) -> list[str]:
    tx.flush()
    return [event.data["event"] for event in jobs.events_after(tx, job_id, seq=0, limit=100)]


def test_a_waiting_job_pauses_at_once_and_nobody_can_claim_it_until_it_is_resumed(tx: Tx, job_id: JobId) -> None:
    assert jobs.pause(tx, job_id).status == JobStatus.PAUSED
    assert jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE) is None
    assert jobs.resume(tx, job_id).status == JobStatus.QUEUED
    assert claimed(tx, job_id).attempt == 1
    assert told(tx, job_id) == ["job.queued", "job.pause_requested", "job.paused", "job.resumed", "job.started"]


def test_a_running_job_is_paused_when_its_worker_has_stopped(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    assert jobs.pause(tx, job_id).status == JobStatus.RUNNING
    assert jobs.extend(tx, lease, ttl=MINUTE) is DesiredState.PAUSE
    assert jobs.stopped(tx, lease) is JobStatus.PAUSED
    assert [attempt.outcome for attempt in jobs.attempts(tx, job_id)] == ["paused"]
    jobs.resume(tx, job_id)
    assert claimed(tx, job_id).attempt == 2


def test_pausing_costs_no_budget_of_failures(tx: Tx, job_id: JobId) -> None:
    for _ in range(10):
        lease = claimed(tx, job_id)
        jobs.pause(tx, job_id)
        jobs.stopped(tx, lease)
        jobs.resume(tx, job_id)
    infra = Failed(failure=FailureClass.INFRA, code="test", message="It broke.")
    assert jobs.fail(tx, claimed(tx, job_id), infra) is JobStatus.QUEUED


def test_pausing_and_resuming_twice_is_pausing_and_resuming_once(tx: Tx, job_id: JobId) -> None:
    for act in (jobs.pause, jobs.pause, jobs.resume, jobs.resume):
        act(tx, job_id)
    assert told(tx, job_id) == ["job.queued", "job.pause_requested", "job.paused", "job.resumed"]


def test_a_pause_can_be_taken_back_before_the_worker_heard_of_it(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    jobs.pause(tx, job_id)
    assert jobs.resume(tx, job_id).status == JobStatus.RUNNING
    assert jobs.extend(tx, lease, ttl=MINUTE) is DesiredState.RUN


def test_an_attempt_that_fails_while_a_pause_is_wanted_leaves_the_job_paused(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    jobs.pause(tx, job_id)
    infra = Failed(failure=FailureClass.INFRA, code="test", message="It broke.")
    assert jobs.fail(tx, lease, infra) is JobStatus.PAUSED


def test_a_job_whose_worker_died_while_a_pause_was_wanted_is_paused(tx: Tx, job_id: JobId) -> None:
    claimed(tx, job_id)
    jobs.pause(tx, job_id)
    tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    tx.expire_all()
    assert jobs.reap(tx) == [job_id]
    assert jobs.get(tx, job_id).status == JobStatus.PAUSED


def test_a_paused_job_can_be_cancelled(tx: Tx, job_id: JobId) -> None:
    jobs.pause(tx, job_id)
    assert jobs.cancel(tx, job_id).status == JobStatus.CANCELLED


def test_what_is_over_or_being_cancelled_is_neither_paused_nor_resumed(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    jobs.cancel(tx, job_id)
    for act in (jobs.pause, jobs.resume):
        with pytest.raises(Conflict, match="is being cancelled"):
            act(tx, job_id)
    jobs.stopped(tx, lease)
    for act in (jobs.pause, jobs.resume):
        with pytest.raises(IllegalTransition, match="is cancelled"):
            act(tx, job_id)


def test_a_change_meant_for_an_older_version_changes_nothing(tx: Tx, job_id: JobId) -> None:
    first = jobs.get(tx, job_id).version
    changed = jobs.change(tx, job_id, version=first, priority=7, labels={"team": "a"})
    assert (changed.priority, changed.labels, changed.version) == (7, {"team": "a"}, first + 1)
    with pytest.raises(PreconditionFailed, match=f"has version {first + 1} by now"):
        jobs.change(tx, job_id, version=first, priority=9, labels=None)
    assert jobs.get(tx, job_id).priority == 7


def test_a_change_that_changes_nothing_is_no_new_version(tx: Tx, job_id: JobId) -> None:
    first = jobs.get(tx, job_id).version
    assert jobs.change(tx, job_id, version=None, priority=0, labels=None).version == first


def test_metadata_outlives_the_job_and_priority_does_not(tx: Tx, job_id: JobId) -> None:
    jobs.cancel(tx, job_id)
    assert jobs.change(tx, job_id, version=None, priority=None, labels={"seen": "yes"}).labels == {"seen": "yes"}
    with pytest.raises(Conflict, match="its priority means nothing any more"):
        jobs.change(tx, job_id, version=None, priority=1, labels=None)
