"""Whose job is next: priority, then who used the least, then age; and no project takes more than it may."""

from datetime import UTC, datetime, timedelta

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Tx
from bitsmith_core.ids import DEFAULT_PROJECT, JobId, ProjectId
from bitsmith_core.jobs import JobStatus, Policy
from bitsmith_core.jobs.fairness import Share, Waiting, choose
from bitsmith_core.spec import JobSpec
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

A, B = ProjectId("proj-a"), ProjectId("proj-b")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
POLICY = Policy(half_life=timedelta(hours=1), entry_penalty_s=60)


def waits(name: str, project: ProjectId, *, minute: int = 0, priority: int = 0, has_yielded: bool = False) -> Waiting:
    return Waiting(
        job_id=JobId(name),
        project=project,
        priority=priority,
        has_yielded=has_yielded,
        created_at=NOON + timedelta(minutes=minute),
    )


def share(usage_s: float = 0, *, weight: float = 1, running: int = 0, max_running: int | None = None) -> Share:
    return Share(usage_s=usage_s, weight=weight, running=running, max_running=max_running)


def order(waiting: list[Waiting], shares: dict[ProjectId, Share], free: int = 99) -> list[str]:
    return [str(job_id) for job_id in choose(waiting, shares, free={"default": free}, entry_penalty_s=60)]


def test_priority_goes_before_everything() -> None:
    waiting = [waits("old", A), waits("urgent", B, minute=9, priority=1)]
    assert order(waiting, {A: share(0), B: share(1e6)}) == ["urgent", "old"]


def test_who_used_least_goes_first_and_pays_for_each_start() -> None:
    waiting = [waits(f"a{number}", A, minute=number) for number in range(4)] + [waits("b0", B, minute=9)]
    assert order(waiting, {A: share(0), B: share(100)}) == ["a0", "a1", "b0", "a2", "a3"]


def test_twice_the_weight_is_twice_the_share() -> None:
    waiting = [waits(f"{name}{number}", project) for name, project in (("a", A), ("b", B)) for number in range(6)]
    first_six = order(waiting, {A: share(weight=2), B: share()}, free=6)
    assert sorted(name[0] for name in first_six) == ["a", "a", "a", "a", "b", "b"]


def test_of_equals_the_oldest_goes_first() -> None:
    assert order([waits("young", A, minute=1), waits("old", B)], {A: share(), B: share()}) == ["old", "young"]


def test_a_job_that_gave_its_worker_back_goes_before_others_of_its_priority() -> None:
    waiting = [waits("old", A), waits("yielded", A, minute=5, has_yielded=True), waits("b", B)]
    assert order(waiting, {A: share(1000), B: share()})[0] == "yielded"


def test_a_project_never_runs_more_than_it_may() -> None:
    waiting = [waits(f"a{number}", A) for number in range(5)] + [waits("b", B, minute=9)]
    assert order(waiting, {A: share(running=1, max_running=3), B: share(1e6)}) == ["a0", "a1", "b"]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-2, 2), st.booleans(), st.integers(0, 9)), max_size=30),
    st.integers(0, 40),
    st.integers(0, 5),
)
def test_nobody_is_chosen_twice_and_no_slot_stays_free_for_nothing(
    drawn: list[tuple[str, int, bool, int]], free: int, limit: int
) -> None:
    waiting = [
        waits(f"{name}{number}", ProjectId(name), priority=priority, has_yielded=yielded, minute=minute)
        for number, (name, priority, yielded, minute) in enumerate(drawn)
    ]
    shares = {ProjectId("a"): share(max_running=limit), ProjectId("b"): share(5)}
    chosen = order(waiting, shares, free)
    of_a = sum(job.project == "a" for job in waiting)
    assert len(set(chosen)) == len(chosen) == min(free, min(of_a, limit) + len(waiting) - of_a)
    assert set(chosen) <= {str(job.job_id) for job in waiting}


@pytest.fixture
def other(tx: Tx) -> ProjectId:
    tx.execute(text("INSERT INTO projects (id, name) VALUES ('proj-other', 'other')"))
    return ProjectId("proj-other")


def submit(tx: Tx, spec: JobSpec, project: ProjectId = DEFAULT_PROJECT, *, priority: int = 0) -> JobId:
    """In another project the files belong there."""
    for file_id in (spec.training_file, spec.validation_file):
        tx.execute(text("UPDATE files SET project_id = :project WHERE id = :id"), {"project": project, "id": file_id})
    tx.expire_all()
    return jobs.submit(tx, spec, project=project, priority=priority).id


def workers(tx: Tx, count: int) -> None:
    for number in range(count):
        jobs.workers.report(tx, name=f"gpu-{number}", device="cuda", local_models=[], devices=2)


def charge(tx: Tx, project: ProjectId) -> float:
    return float(tx.scalar(text("SELECT charge FROM projects WHERE id = :id"), {"id": project}) or 0)


def test_offers_follow_priority_and_share(tx: Tx, spec: JobSpec, other: ProjectId) -> None:
    ours = [submit(tx, spec) for _ in range(3)]
    urgent = submit(tx, spec, priority=5)
    theirs = submit(tx, spec, other)
    workers(tx, 3)
    assert jobs.offer(tx, policy=POLICY) == [urgent, theirs, ours[0]]


def test_a_limit_of_the_project_goes_before_that_of_the_installation(tx: Tx, spec: JobSpec) -> None:
    for _ in range(3):
        submit(tx, spec)
    workers(tx, 3)
    tx.execute(text("""UPDATE projects SET limits = '{"running_jobs": 2}'"""))
    assert len(jobs.offer(tx, policy=Policy(max_running=1))) == 2


def test_a_draining_worker_is_offered_nothing_and_can_claim_nothing(tx: Tx, spec: JobSpec) -> None:
    job_id = submit(tx, spec)
    workers(tx, 1)
    assert jobs.workers.drain(tx, "gpu-0", wanted=True)
    workers(tx, 1)  # its next report changes nothing
    assert jobs.offer(tx) == []
    assert jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE) is None
    assert jobs.workers.drain(tx, "gpu-0", wanted=False)
    assert jobs.offer(tx) == [job_id]
    assert not jobs.workers.drain(tx, "nobody", wanted=True)


def test_a_message_that_came_to_a_worker_which_may_not_take_it_is_sent_to_another_at_once(
    tx: Tx, spec: JobSpec
) -> None:
    job_id = submit(tx, spec)
    workers(tx, 2)
    assert jobs.offer(tx, policy=POLICY) == [job_id]
    assert jobs.offer(tx, policy=POLICY) == [], "its message travels"
    jobs.workers.drain(tx, "gpu-0", wanted=True)
    assert jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE) is None
    assert jobs.offer(tx, policy=POLICY) == [job_id]
    assert charge(tx, DEFAULT_PROJECT) == 60, "a start is paid for once"
    assert jobs.claim(tx, job_id, worker="gpu-1", ttl=MINUTE)
    assert jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE) is None
    assert jobs.offer(tx, policy=POLICY) == []


def test_use_is_charged_while_it_lasts_and_halves_with_time(tx: Tx, spec: JobSpec) -> None:
    job_id = submit(tx, spec)
    workers(tx, 1)
    assert jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE)
    tx.flush()
    tx.execute(text("UPDATE attempts SET started_at = now() - interval '100 s'"))
    tx.execute(text("UPDATE projects SET charged_at = now() - interval '40 s'"))
    jobs.sample_usage(tx, policy=POLICY)
    assert charge(tx, DEFAULT_PROJECT) == pytest.approx(2 * 40)  # two devices, since the last sample
    jobs.sample_usage(tx, policy=POLICY)
    assert charge(tx, DEFAULT_PROJECT) == pytest.approx(2 * 40)

    tx.execute(text("UPDATE jobs SET status = 'paused', lease_token = NULL"))
    tx.execute(text("UPDATE projects SET charged_at = now() - interval '1 h'"))
    jobs.sample_usage(tx, policy=POLICY)
    assert charge(tx, DEFAULT_PROJECT) == pytest.approx(40)


def test_a_lost_offer_is_not_paid_for_twice(tx: Tx, spec: JobSpec) -> None:
    job_id = submit(tx, spec)
    workers(tx, 1)
    for _ in range(2):
        assert jobs.offer(tx, policy=POLICY) == [job_id]
        tx.flush()
        tx.execute(text("UPDATE jobs SET offered_at = now() - interval '1 h'"))
        tx.expire_all()
    assert charge(tx, DEFAULT_PROJECT) == 60


def test_a_job_told_to_go_is_the_first_to_be_offered_again(tx: Tx, spec: JobSpec) -> None:
    first, second = submit(tx, spec), submit(tx, spec)
    workers(tx, 1)
    lease = jobs.claim(tx, second, worker="gpu-0", ttl=MINUTE)
    assert lease is not None
    assert jobs.stopped(tx, lease) is JobStatus.QUEUED
    tx.flush()
    assert jobs.offer(tx) == [second]
    assert first != second
