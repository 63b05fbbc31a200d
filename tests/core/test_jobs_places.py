"""Where a waiting job stands: counted, and the same as if the queue were played to its end."""

from datetime import UTC, datetime, timedelta

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Tx
from bitsmith_core.ids import JobId, ProjectId
from bitsmith_core.jobs import JobStatus
from bitsmith_core.jobs.fairness import Rivals, Share, Waiting, choose, place
from bitsmith_core.jobs.queries import queue_places
from bitsmith_core.spec import JobSpec
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from tests.conftest import add_file

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROJECTS = [ProjectId(f"proj-{letter}") for letter in "abc"]

a_job = st.tuples(st.sampled_from(PROJECTS), st.integers(0, 1), st.booleans(), st.integers(0, 3))
a_share = st.builds(
    Share,
    usage_s=st.sampled_from([0.0, 60.0, 90.0, 600.0]),
    weight=st.sampled_from([1.0, 2.0]),
    running=st.integers(0, 2),
    max_running=st.one_of(st.none(), st.integers(0, 4)),
)


@given(st.lists(a_job, max_size=25), st.tuples(a_share, a_share, a_share), st.sampled_from([0.0, 60.0]))
def test_a_place_is_what_playing_the_queue_to_its_end_gives(
    drawn: list[tuple[ProjectId, int, bool, int]], drawn_shares: tuple[Share, ...], penalty_s: float
) -> None:
    waiting = [
        Waiting(
            job_id=JobId(f"{number:02d}"),
            project=project,
            priority=priority,
            has_yielded=has_yielded,
            created_at=NOON + timedelta(minutes=minute),
        )
        for number, (project, priority, has_yielded, minute) in enumerate(drawn)
    ]
    shares = dict(zip(PROJECTS, drawn_shares, strict=True))
    played = choose(waiting, shares, free={"default": len(waiting)}, entry_penalty_s=penalty_s)
    for job in waiting:
        expected = played.index(job.job_id) + 1 if job.job_id in played else None
        before, rivals = seen_by(job, waiting)
        assert place(job.project, before, rivals, shares, entry_penalty_s=penalty_s) == expected


def seen_by(job: Waiting, waiting: list[Waiting]) -> tuple[int, dict[ProjectId, Rivals]]:
    def turn(each: Waiting) -> tuple[int, bool, datetime, JobId]:
        return -each.priority, not each.has_yielded, each.created_at, each.job_id

    rivals = {}
    for project in set(PROJECTS) - {job.project}:
        theirs = [each for each in waiting if each.project == project]
        equal = [each for each in theirs if turn(each)[:2] == turn(job)[:2]]
        rivals[project] = Rivals(
            higher=sum(turn(each)[:2] < turn(job)[:2] for each in theirs),
            equal=len(equal),
            older=sum((each.created_at, project) < (job.created_at, job.project) for each in equal),
        )
    return sum(each.project == job.project and turn(each) < turn(job) for each in waiting), rivals


@pytest.fixture
def queue(tx: Tx) -> list[JobId]:
    """Twenty-four jobs of three projects that used more or less; some urgent, some given back, many of one age."""
    ids = []
    for number, project in enumerate(PROJECTS):
        tx.execute(
            text("INSERT INTO projects (id, name, charge) VALUES (:id, :id, :charge)"),
            {"id": project, "charge": (0, 0, 150)[number]},
        )
    for number in range(24):
        project = PROJECTS[number * number % 3 if number % 4 else 1]
        spec = JobSpec(model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx))
        tx.flush()
        tx.execute(text("UPDATE files SET project_id = :id"), {"id": project})
        tx.expire_all()
        job = jobs.submit(tx, spec, project=project, priority=number % 5 // 4)
        ids.append(job.id)
        if number % 6 == 5:
            jobs.workers.report(tx, name="gone", device="cuda", local_models=[])
            lease = jobs.claim(tx, job.id, worker="gone", ttl=timedelta(minutes=1))
            assert lease is not None
            jobs.stopped(tx, lease)
            jobs.workers.leave(tx, "gone")
        tx.flush()
        tx.execute(
            text("UPDATE jobs SET created_at = now() - make_interval(mins => :age) WHERE id = :id"),
            {"age": number // 5, "id": job.id},
        )
    tx.expire_all()
    return ids


def places(tx: Tx, ids: list[JobId]) -> dict[JobId, int]:
    found = queue_places(tx, [jobs.get(tx, job_id) for job_id in ids])
    return {job_id: found[job_id].position for job_id in ids}


def offered(tx: Tx) -> list[JobId]:
    for number in range(50):
        jobs.workers.report(tx, name=f"gpu-{number}", device="cuda", local_models=[])
    return jobs.offer(tx)


def test_jobs_are_offered_in_the_order_of_their_places(tx: Tx, queue: list[JobId]) -> None:
    found = places(tx, queue)
    assert sorted(found.values()) == list(range(1, 25))
    assert sorted(queue, key=lambda job_id: found[job_id]) == offered(tx)


def test_one_job_is_told_the_same_place_as_among_others(tx: Tx, queue: list[JobId]) -> None:
    together = places(tx, queue)
    assert {job_id: places(tx, [job_id])[job_id] for job_id in queue} == together


def test_those_ahead_are_the_nearest_of_the_same_project(tx: Tx, queue: list[JobId]) -> None:
    order = sorted(queue, key=lambda job_id: places(tx, queue)[job_id])
    found = queue_places(tx, [jobs.get(tx, job_id) for job_id in queue])
    of_project = {job_id: jobs.get(tx, job_id).project_id for job_id in queue}
    for number, job_id in enumerate(order):
        before = [other for other in order[:number] if of_project[other] == of_project[job_id]]
        assert found[job_id].ahead == before[-10:]


def test_a_project_with_a_limit_and_a_job_that_backs_off_come_last(tx: Tx, queue: list[JobId]) -> None:
    tx.execute(text("""UPDATE projects SET limits = '{"running_jobs": 2}' WHERE id = 'proj-b'"""))
    of_b = [job_id for job_id in queue if jobs.get(tx, job_id).project_id == "proj-b"]
    late = next(job_id for job_id in queue if job_id not in of_b)
    tx.execute(text("UPDATE jobs SET not_before = now() + interval '1 h' WHERE id = :id"), {"id": late})
    tx.expire_all()
    found = places(tx, queue)
    chosen = offered(tx)
    assert len(chosen) == 24 - (len(of_b) - 2) - 1
    assert sorted(chosen, key=lambda job_id: found[job_id]) == chosen
    assert [found[job_id] for job_id in chosen] == list(range(1, len(chosen) + 1))
    assert all(found[job_id] > len(chosen) for job_id in queue if job_id not in chosen)


def test_a_job_that_does_not_wait_has_no_place(tx: Tx, queue: list[JobId]) -> None:
    assert jobs.claim(tx, queue[0], worker="gpu-0", ttl=timedelta(minutes=1))
    tx.expire_all()
    job = jobs.get(tx, queue[0])
    assert job.status == JobStatus.RUNNING
    assert queue_places(tx, [job]) == {}
