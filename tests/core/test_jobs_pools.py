"""A job runs where it says: pools of workers do not know each other, whether they offer, claim or count."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Tx
from bitsmith_core.errors import InvalidSpec
from bitsmith_core.ids import DEFAULT_PROJECT, JobId, ProjectId
from bitsmith_core.jobs import JobStatus, Policy
from bitsmith_core.jobs.fairness import Share, Waiting, choose
from bitsmith_core.jobs.queries import QueuePlace, queue_places
from bitsmith_core.pools import absent
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import text

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PROJECTS, POOLS = [ProjectId(f"proj-{letter}") for letter in "abc"], ["default", "h100", "l40s"]

a_job = st.tuples(
    st.sampled_from(POOLS), st.sampled_from(PROJECTS), st.integers(-1, 1), st.booleans(), st.integers(0, 3)
)
a_share = st.builds(
    Share, usage_s=st.sampled_from([0.0, 60.0, 600.0]), weight=st.sampled_from([1.0, 2.0]), running=st.integers(0, 2),
    max_running=st.none(),
)  # fmt: skip
some_free = st.dictionaries(st.sampled_from(POOLS), st.integers(0, 6))


def all_waiting(drawn: list[tuple[str, ProjectId, int, bool, int]]) -> list[Waiting]:
    return [
        Waiting(
            job_id=JobId(f"{number:02d}"), pool=pool, project=project, priority=priority, has_yielded=has_yielded,
            created_at=NOON + timedelta(minutes=minute),
        )
        for number, (pool, project, priority, has_yielded, minute) in enumerate(drawn)
    ]  # fmt: skip


@given(st.lists(a_job, max_size=25), st.tuples(a_share, a_share, a_share), some_free)
def test_what_is_chosen_of_a_pool_is_what_would_be_without_all_others(
    drawn: list[tuple[str, ProjectId, int, bool, int]], shares: tuple[Share, ...], free: dict[str, int]
) -> None:
    waiting, standing = all_waiting(drawn), dict(zip(PROJECTS, shares, strict=True))
    chosen = choose(waiting, standing, free=free, entry_penalty_s=60)
    for pool in POOLS:
        mine = [job for job in waiting if job.pool == pool]
        alone = choose(mine, standing, free={pool: free.get(pool, 0)}, entry_penalty_s=60)
        assert [job_id for job_id in chosen if job_id in {job.job_id for job in mine}] == alone
        assert len(alone) == min(len(mine), free.get(pool, 0))


@given(st.lists(a_job, max_size=25), st.lists(st.integers(0, 5), min_size=3, max_size=3), some_free)
def test_a_limit_of_a_project_is_one_for_all_pools_and_nothing_is_left_that_could_start(
    drawn: list[tuple[str, ProjectId, int, bool, int]], limits: list[int], free: dict[str, int]
) -> None:
    waiting = all_waiting(drawn)
    standing = {
        project: Share(usage_s=0, weight=1, running=0, max_running=most)
        for project, most in zip(PROJECTS, limits, strict=True)
    }
    chosen = set(choose(waiting, standing, free=free, entry_penalty_s=60))
    started = [job for job in waiting if job.job_id in chosen]
    for pool in POOLS:
        assert sum(job.pool == pool for job in started) <= free.get(pool, 0)
    for project, most in zip(PROJECTS, limits, strict=True):
        assert sum(job.project == project for job in started) <= most
    for job in set(waiting) - set(started):
        pool_is_full = sum(each.pool == job.pool for each in started) == free.get(job.pool, 0)
        project_is_full = sum(each.project == job.project for each in started) == standing[job.project].max_running
        assert pool_is_full or project_is_full


def in_pool(spec: JobSpec, pool: str, **changes: Any) -> JobSpec:
    method = {"type": "qsft", "qsft": {"resources": {"pool": pool}}}
    return JobSpec.model_validate({**spec.model_dump(mode="json"), **changes, "method": method})


def submit(tx: Tx, spec: JobSpec, pool: str, *, priority: int = 0) -> JobId:
    return jobs.submit(tx, in_pool(spec, pool), project=DEFAULT_PROJECT, priority=priority).id


def report(tx: Tx, name: str, pool: str, **facts: Any) -> None:
    jobs.workers.report(tx, name=name, device="cuda", pool=pool, **{"local_models": [], **facts})


def place_of(tx: Tx, job_id: JobId) -> QueuePlace:
    return queue_places(tx, [jobs.get(tx, job_id)])[job_id]


@pytest.mark.parametrize("name", ["", "H100", "-a", "a-", "a" * 64, "a.b", "a b", "a/b", "default\n"])
def test_a_pool_has_a_name_that_a_queue_and_a_label_can_have(spec: JobSpec, name: str) -> None:
    with pytest.raises(ValidationError):
        in_pool(spec, name)


def test_a_spec_of_the_default_pool_is_what_it_was_before_there_were_pools(spec: JobSpec) -> None:
    """Workers of the release before refuse fields they do not know, and must go on with jobs of the default pool."""
    named = in_pool(spec, "default")
    assert (named.pool, in_pool(spec, "h100").pool) == ("default", "h100")
    assert "pool" not in named.model_dump_json()
    assert named.sha256 == spec.sha256 != in_pool(spec, "h100").sha256
    assert JobSpec.model_validate_json(in_pool(spec, "h100").model_dump_json()).pool == "h100"


def test_a_job_is_offered_when_a_worker_of_its_pool_is_free_whatever_waits_for_others(tx: Tx, spec: JobSpec) -> None:
    many = [submit(tx, spec, "h100", priority=9) for _ in range(3)]
    one = submit(tx, spec, "l40s", priority=-9)
    report(tx, "l", "l40s")
    assert jobs.offer(tx) == [one]
    report(tx, "h", "h100")
    assert jobs.offer(tx) == [many[0]]
    assert jobs.offer(tx) == [], "both messages travel"
    payloads = {row.payload["job_id"]: row.payload["pool"] for row in jobs.outbox.unsent(tx, limit=10)}
    assert payloads == {one: "l40s", many[0]: "h100"}


def test_within_a_pool_priority_goes_first(tx: Tx, spec: JobSpec) -> None:
    old, urgent = submit(tx, spec, "h100"), submit(tx, spec, "h100", priority=5)
    elsewhere = submit(tx, spec, "l40s", priority=9)
    report(tx, "h1", "h100")
    report(tx, "h2", "h100")
    assert jobs.offer(tx, policy=Policy()) == [urgent, old]
    assert elsewhere not in {row.payload["job_id"] for row in jobs.outbox.unsent(tx, limit=10)}


def test_a_worker_refuses_a_job_of_another_pool_and_the_job_waits_on_for_its_own(tx: Tx, spec: JobSpec) -> None:
    job_id = submit(tx, spec, "h100")
    report(tx, "h", "h100")
    report(tx, "d", "default")
    assert jobs.offer(tx) == [job_id]
    assert jobs.claim(tx, job_id, worker="d", ttl=MINUTE) is None
    tx.expire_all()
    job = jobs.get(tx, job_id)
    assert (job.status, job.attempt_no) == (JobStatus.QUEUED, 0)
    assert jobs.offer(tx) == [job_id], "its message counts as lost at once"
    assert jobs.claim(tx, job_id, worker="h", ttl=MINUTE, pool="h100")


def test_no_worker_of_another_pool_takes_over_a_lease_that_ran_out(tx: Tx, spec: JobSpec) -> None:
    job_id = submit(tx, spec, "h100")
    assert jobs.claim(tx, job_id, worker="h", ttl=MINUTE, pool="h100")
    tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'"))
    assert jobs.claim(tx, job_id, worker="d", ttl=MINUTE) is None
    assert jobs.claim(tx, job_id, worker="h2", ttl=MINUTE, pool="h100")


def test_a_worker_avoided_for_its_disk_is_used_again_if_its_pool_has_no_other(tx: Tx, spec: JobSpec) -> None:
    job_id = submit(tx, spec, "h100")
    report(tx, "h1", "h100")
    report(tx, "d", "default")  # alive, and of no use
    lease = jobs.claim(tx, job_id, worker="h1", ttl=MINUTE, pool="h100")
    assert lease is not None
    full = Failed(failure=FailureClass.RESOURCE, code="disk_full", message="Full.")
    assert jobs.fail(tx, lease, full) is JobStatus.QUEUED
    tx.flush()
    tx.execute(text("UPDATE jobs SET not_before = now()"))
    report(tx, "h2", "h100")
    assert jobs.claim(tx, job_id, worker="h1", ttl=MINUTE, pool="h100") is None
    jobs.workers.leave(tx, "h2")
    assert jobs.claim(tx, job_id, worker="h1", ttl=MINUTE, pool="h100")


def test_a_place_is_among_those_that_wait_for_the_same_pool(tx: Tx, spec: JobSpec) -> None:
    in_turn = [submit(tx, spec, "h100") for _ in range(3)]
    other = submit(tx, spec, "l40s", priority=-5)
    assert [place_of(tx, job_id).position for job_id in in_turn] == [1, 2, 3]
    assert place_of(tx, in_turn[2]).ahead == in_turn[:2]
    assert (place_of(tx, other).position, place_of(tx, other).ahead) == (1, [])


def test_a_job_of_a_pool_without_a_live_worker_waits_and_says_why(tx: Tx, spec: JobSpec) -> None:
    job_id = submit(tx, spec, "h100")
    assert place_of(tx, job_id).obstacle == "no live worker of the pool h100, nor of any other"
    report(tx, "l", "l40s")
    report(tx, "d", "default")
    assert place_of(tx, job_id).obstacle == "no live worker of the pool h100; there are pools: default, l40s"
    report(tx, "h", "h100")
    assert place_of(tx, job_id).obstacle is None
    tx.execute(text("UPDATE workers SET seen_at = now() - interval '1 minute' WHERE name = 'h'"))
    assert place_of(tx, job_id).obstacle == absent("h100", {"default", "l40s"})


def test_a_local_model_is_looked_for_in_the_jobs_own_pool(tx: Tx, spec: JobSpec) -> None:
    local = in_pool(spec, "h100", model="local:big")
    report(tx, "d", "default", local_models=["big"])
    assert jobs.submit(tx, local, project=DEFAULT_PROJECT), "nobody of the pool is there to know better"
    report(tx, "h", "h100", local_models=["small"])
    with pytest.raises(InvalidSpec, match=r"no live worker of the pool h100 has local:big; they have local:small"):
        jobs.submit(tx, local, project=DEFAULT_PROJECT)
    report(tx, "h2", "h100", local_models=["big"])
    assert jobs.submit(tx, local, project=DEFAULT_PROJECT)


def test_what_waits_is_counted_by_pool_without_what_its_idle_workers_will_take(tx: Tx, spec: JobSpec) -> None:
    for pool, count in (("h100", 3), ("l40s", 1), ("default", 2)):
        for _ in range(count):
            submit(tx, spec, pool)
    report(tx, "h", "h100")
    report(tx, "l1", "l40s")
    report(tx, "l2", "l40s")
    assert jobs.cluster.waiting(tx, but_for=[]) == {"h100": 2, "default": 2}
    assert jobs.cluster.waiting(tx, but_for=["h", "l1", "l2"]) == {"h100": 3, "l40s": 1, "default": 2}


def test_a_worker_and_an_api_of_the_release_before_are_of_the_default_pool(tx: Tx, spec: JobSpec) -> None:
    """What they send names no pool: the statements as they were, against the schema as it is."""
    reported = text(
        "INSERT INTO workers (name, device, local_models, devices, memory_bytes) VALUES ('old', 'cuda', '[]', 1, NULL) "
        "ON CONFLICT (name) DO UPDATE SET device = excluded.device, local_models = excluded.local_models, "
        "devices = excluded.devices, memory_bytes = excluded.memory_bytes, seen_at = now()"
    )
    tx.execute(reported)
    tx.execute(reported)
    submitted = text(
        "INSERT INTO jobs (id, project_id, spec, spec_sha256, base_model, training_file, validation_file, metadata, "
        "priority, last_seq) SELECT 'ftjob-old', project_id, spec, spec_sha256, base_model, training_file, "
        "validation_file, metadata, 0, 0 FROM jobs WHERE id = :id"
    )
    spec_without = submit(tx, spec, "default")
    tx.execute(submitted, {"id": spec_without})
    tx.execute(text("UPDATE jobs SET status = 'cancelled' WHERE id = :id"), {"id": spec_without})
    assert [(worker.name, worker.pool) for worker in jobs.workers.alive(tx)] == [("old", "default")]
    assert jobs.offer(tx) == ["ftjob-old"]
    assert jobs.claim(tx, JobId("ftjob-old"), worker="old", ttl=MINUTE)
