"""What a worker promises that is there for one attempt only."""

from bitsmith_core.clock import utc_now
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import JobStatus

from tests.worker.conftest import Platform, until


def test_it_ends_after_its_attempt_and_leaves_the_next_job_to_others(platform: Platform) -> None:
    platform.scheduler()
    made = [platform.submit(), platform.submit(act="fail", failure="data")]
    once = platform.start_worker("w1", BITSMITH_WORKER_ONCE="true")
    until(lambda: not once.is_running(), what="the worker's end")
    assert sorted(platform.job(job_id).status for job_id in made) in (
        [JobStatus.QUEUED, JobStatus.SUCCEEDED],
        [JobStatus.FAILED, JobStatus.QUEUED],
    )
    assert not platform.is_present("w1")

    again = platform.start_worker("w2", BITSMITH_WORKER_ONCE="true")
    until(lambda: not again.is_running(), what="the second worker's end")
    assert [platform.outcomes(job_id) for job_id in made] == [["succeeded"], ["data"]]
    for child in (once, again):
        assert '"event": "worker.left"' in child.log.read_text()


def test_it_ends_by_itself_when_no_attempt_begins(platform: Platform) -> None:
    idle = platform.start_worker("w1", BITSMITH_WORKER_ONCE="true", BITSMITH_WORKER_IDLE_WITHIN_S="1")
    until(lambda: not idle.is_running(), what="the worker's end")
    said = idle.log.read_text()
    assert '"event": "worker.idle"' in said
    assert '"event": "worker.left"' in said


def test_it_does_not_end_while_its_attempt_runs(platform: Platform) -> None:
    gate = platform.folder / "go"
    platform.scheduler()
    job_id = platform.submit(act="wait", gate=str(gate))
    once = platform.start_worker("w1", BITSMITH_WORKER_ONCE="true", BITSMITH_WORKER_IDLE_WITHIN_S="4")
    platform.until_training(job_id)
    until(lambda: _age_s(platform, job_id) > 5, what="longer than it may idle")
    assert once.is_running()
    gate.touch()
    until(lambda: not once.is_running(), what="the worker's end")
    assert platform.outcomes(job_id) == ["succeeded"]


def _age_s(platform: Platform, job_id: JobId) -> float:
    return (utc_now() - platform.attempts(job_id)[0].started_at).total_seconds()
