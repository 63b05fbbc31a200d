"""What a checkpoint in the middle of training promises: whoever comes next, on whatever worker, goes on from there."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from bitsmith_core import jobs, registry
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.jobs import JobStatus

from tests.worker.conftest import Platform, until


@pytest.fixture
def go(platform: Platform) -> Path:
    """Its appearance lets a training that holds go on."""
    return platform.folder / "go"


def training_at(platform: Platform, go: Path, *steps: int) -> JobId:
    """A job whose training holds after the last of the steps; at each its newest checkpoint came into the store."""
    job_id = platform.submit(act="train", gate=str(go), hold_at=" ".join(map(str, steps)))
    for step in steps:
        until(partial(_is_held, platform, job_id, step), what=f"step {step} and the checkpoint before it")
        if step != steps[-1]:
            go.with_name(f"{go.name}-{step}").touch()
    return job_id


def _is_held(platform: Platform, job_id: JobId, step: int) -> bool:
    is_there = platform.job(job_id).progress.get("done") == step
    return is_there and platform.steps_kept(job_id)[-1:] == [step // 10 * 10]


def starts(platform: Platform, job_id: JobId) -> list[int | None]:
    """The step of training at which each attempt began."""
    return [attempt.start_step for attempt in platform.attempts(job_id)]


@pytest.mark.failure("worker killed")
def test_a_killed_worker_costs_at_most_one_interval_on_any_other(platform: Platform, go: Path) -> None:
    platform.scheduler()
    doomed = platform.worker("w1")
    job_id = training_at(platform, go, 57)
    doomed.kill()
    go.touch()
    platform.worker("w2", BITSMITH_WORKER_SCRATCH=str(platform.folder / "elsewhere"))
    platform.until_status(job_id, JobStatus.SUCCEEDED)

    assert platform.outcomes(job_id) == ["infra", "succeeded"]
    assert starts(platform, job_id) == [0, 50]
    assert platform.attempts(job_id)[1].end_step == 100
    assert platform.versions() == 1


def test_only_the_last_two_checkpoints_of_training_stay_in_the_store(platform: Platform, go: Path) -> None:
    platform.scheduler()
    platform.worker()
    job_id = training_at(platform, go, 35, 45, 57)
    assert platform.steps_kept(job_id) == [40, 50]
    prefix = f"jobs/{job_id}/"

    def steps_stored() -> set[str]:
        keys = [found.key for found in platform.store.list(prefix) if "/checkpoints/" in found.key]
        return {key.split("/checkpoints/")[1].split("/")[0] for key in keys}

    until(lambda: steps_stored() == {"training-00000040", "training-00000050"}, what="deletion")
    go.touch()
    platform.until_status(job_id, JobStatus.SUCCEEDED)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(platform: Platform, go: Path) -> None:
    platform.scheduler()
    doomed = platform.worker("w1")
    job_id = training_at(platform, go, 35, 45, 57)
    doomed.kill()
    with platform.database.transaction() as tx:
        newest = jobs.checkpoints(tx, job_id)[-1]
    torn = platform.folder / "torn"
    torn.write_bytes(b"half of it")
    platform.store.put_file(f"{newest.prefix}/{newest.files[0]}", torn)
    go.touch()
    platform.worker("w2")
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert starts(platform, job_id) == [0, 40]


def test_a_paused_job_goes_on_from_the_step_at_which_it_stopped(platform: Platform, go: Path) -> None:
    platform.scheduler()
    platform.worker()
    job_id = training_at(platform, go, 57)
    with platform.database.transaction() as tx:
        jobs.pause(tx, job_id)
    platform.until_status(job_id, JobStatus.PAUSED)
    assert platform.steps_kept(job_id) == [50, 57]
    go.touch()
    other = platform.submit()  # the worker is free for others meanwhile
    platform.until_status(other, JobStatus.SUCCEEDED)

    with platform.database.transaction() as tx:
        jobs.resume(tx, job_id)
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert platform.outcomes(job_id) == ["paused", "succeeded"]
    assert starts(platform, job_id) == [0, 57]


def test_a_drained_worker_hands_its_job_to_another_and_takes_no_more(platform: Platform, go: Path) -> None:
    platform.scheduler()
    platform.worker("w1")
    job_id = training_at(platform, go, 57)
    with platform.database.transaction() as tx:
        assert jobs.workers.drain(tx, "w1", wanted=True)
    platform.until_status(job_id, JobStatus.QUEUED)
    go.touch()
    platform.worker("w2")
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    attempts = platform.attempts(job_id)
    assert [(attempt.worker, attempt.outcome) for attempt in attempts] == [("w1", "yield"), ("w2", "succeeded")]
    assert starts(platform, job_id) == [0, 57]
    with platform.database.transaction() as tx:
        assert {worker.name: worker.is_draining for worker in jobs.workers.alive(tx)} == {"w1": True, "w2": False}


def test_every_step_is_measured_once_and_the_history_stays_short(platform: Platform, go: Path) -> None:
    platform.scheduler()
    platform.worker()
    go.touch()
    job_id = platform.submit(act="train", gate=str(go), hold_at="1")
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    with platform.database.transaction() as tx:
        chunks = jobs.chunks.metrics(tx, job_id)
    assert [step for chunk in chunks for step in chunk.steps] == list(range(1, 101))
    assert [loss for chunk in chunks for loss in chunk.columns["loss"]] == [1 / step for step in range(1, 101)]
    assert len(chunks) <= 10
    assert len([event for event in platform.events(job_id) if event["event"] == "progress"]) <= 21


def test_the_engine_s_log_is_in_the_store_whole(platform: Platform, go: Path) -> None:
    platform.scheduler()
    platform.worker()
    job_id = training_at(platform, go, 57)

    def log() -> str:
        with platform.database.transaction() as tx:
            pieces = jobs.chunks.logs(tx, job_id)
        return "".join(platform.store.read(piece.object_key, offset=0, length=piece.bytes).decode() for piece in pieces)

    until(lambda: log().endswith("step 50\n"), what="the live log")
    go.touch()
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert log() == "training from step 0\n" + "".join(f"step {step}\n" for step in range(10, 101, 10))


@pytest.mark.failure("engine killed")
def test_an_attempt_remembers_how_its_engine_ended(platform: Platform, go: Path) -> None:
    platform.scheduler()
    platform.worker()
    job_id = training_at(platform, go, 57)
    pid = next(int(event["metrics"]["pid"]) for event in platform.events(job_id) if event["event"] == "progress")
    os.kill(pid, signal.SIGKILL)
    go.touch()
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    killed, succeeded = platform.attempts(job_id)
    assert (killed.exit_code, killed.stage, killed.end_step) == (-signal.SIGKILL, "training", 57)
    assert killed.evidence["signal"] == signal.SIGKILL
    assert killed.evidence["log_end"].endswith("step 50")
    assert (succeeded.exit_code, succeeded.peak_memory_bytes) == (0, 1)
    assert 0 < killed.gpu_seconds < 60


def test_after_running_out_of_memory_the_next_attempt_takes_half_the_micro_batch(platform: Platform) -> None:
    platform.scheduler()
    platform.worker()
    once = platform.folder / "once"
    job_id = platform.submit(act="fail", failure="resource", only=str(once))
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert platform.job(job_id).adjustments == {"micro_batch_size": 4}  # of a batch of 8
    with platform.database.transaction() as tx:
        version = registry.get_version(tx, "base-qsft", 1, project=DEFAULT_PROJECT)
    (key,) = (file.object_key for file in version.files if file.path == "adjustments.json")
    seen = platform.folder / "seen.json"
    platform.store.get_file(key, seen)
    assert json.loads(seen.read_text())["micro_batch_size"] == 4
