"""What a worker promises while nothing dies: one attempt, a whole history, a version whose files are really there."""

import hashlib
import json
from pathlib import Path

import psutil
import pytest
from bitsmith_core import jobs, registry
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.jobs import JobStatus

from tests.worker.conftest import Platform, until


def test_a_job_becomes_a_version_whose_files_are_in_the_store(platform: Platform) -> None:
    platform.scheduler()
    platform.worker()
    job_id = platform.submit()
    platform.until_status(job_id, JobStatus.SUCCEEDED)

    assert platform.story(job_id) == [
        "job.queued", "job.started",
        "stage.started fetching", "stage.finished fetching",
        "stage.started measuring", "stage.finished measuring",
        "stage.started training", "stage.finished training",
        "stage.started publishing", "stage.finished publishing",
        "job.succeeded",
    ]  # fmt: skip
    assert platform.events(job_id)[-1]["result"] == "base-qsft@1"
    with platform.database.transaction() as tx:
        version = registry.get_version(tx, "base-qsft", 1, project=DEFAULT_PROJECT)
    contents = contents_of(platform, version)
    assert set(contents) == {"attempt.txt", "environment.txt", "inputs.txt", "native/weights.bin"}
    assert contents["environment.txt"] == b"[]", "the engine must see none of our settings"
    assert contents["inputs.txt"] == b"['model', 'packs', 'training.jsonl', 'validation.jsonl']"
    until(lambda: list(platform.scratch.iterdir()) == [], what="clean scratch")


def contents_of(platform: Platform, version: registry.Version) -> dict[str, bytes]:
    """Its files, each of which lies under its own digest."""
    contents: dict[str, bytes] = {}
    for file in version.files:
        content = contents[file.path] = platform.store.read(file.object_key, offset=0, length=file.bytes)
        digest = hashlib.sha256(content).hexdigest()
        assert (file.sha256, file.object_key) == (digest, f"blobs/{digest[:2]}/{digest}")
    return contents


@pytest.mark.failure("message repeated")
def test_a_message_delivered_three_times_makes_one_attempt(platform: Platform) -> None:
    gate = platform.folder / "go"
    platform.worker("w1")
    platform.worker("w2")
    job_id = platform.submit(act="wait", gate=str(gate))
    for _ in range(3):
        platform.courier.send(job_id)
    platform.until_training(job_id)
    gate.touch()
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    later = platform.submit()  # behind the late messages; when it is done they have been dropped
    platform.courier.send(later)
    platform.until_status(later, JobStatus.SUCCEEDED)
    assert platform.outcomes(job_id) == ["succeeded"]


def test_jobs_run_on_workers_of_the_pool_that_they_name(platform: Platform) -> None:
    gate = platform.folder / "go"
    platform.scheduler()
    platform.worker("d1")
    platform.worker("h1", BITSMITH_WORKER_POOL="h100")
    busy = platform.submit(act="wait", gate=str(gate))
    platform.until_status(busy, JobStatus.RUNNING)
    behind = platform.submit()
    large = [platform.submit(pool="h100") for _ in range(2)]
    nobodys = platform.submit(pool="l40s")
    for job_id in large:  # though the default pool has no worker free
        platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert platform.job(behind).status == JobStatus.QUEUED
    gate.touch()
    platform.until_status(behind, JobStatus.SUCCEEDED)
    assert platform.job(nobodys).status == JobStatus.QUEUED
    at = {job_id: [attempt.worker for attempt in platform.attempts(job_id)] for job_id in [busy, behind, *large]}
    assert at == {busy: ["d1"], behind: ["d1"], large[0]: ["h1"], large[1]: ["h1"]}


def test_a_message_that_went_to_another_pool_does_no_harm(platform: Platform) -> None:
    """As a scheduler of the release before sends it, which knows one queue."""
    platform.worker("d1")
    job_id = platform.submit(pool="h100")
    platform.courier.send(job_id)
    later = platform.submit()  # behind that message; when it is done it has been dropped
    platform.courier.send(later)
    platform.until_status(later, JobStatus.SUCCEEDED)
    assert (platform.job(job_id).status, platform.outcomes(job_id)) == (JobStatus.QUEUED, [])
    platform.worker("h1", BITSMITH_WORKER_POOL="h100")
    platform.courier.send(job_id, pool="h100")
    platform.until_status(job_id, JobStatus.SUCCEEDED)


@pytest.mark.failure("cancel races success")
def test_a_job_whose_cancelling_was_promised_publishes_nothing(platform: Platform) -> None:
    gate = platform.folder / "go"
    platform.scheduler()
    platform.worker(BITSMITH_WORKER_LEASE_S="90", BITSMITH_WORKER_HEARTBEAT_S="30")  # it hears of nothing meanwhile
    job_id = platform.submit(act="wait", gate=str(gate))
    platform.until_training(job_id)
    with platform.database.transaction() as tx:
        jobs.cancel(tx, job_id)
    gate.touch()
    platform.until_status(job_id, JobStatus.CANCELLED)
    assert platform.outcomes(job_id) == ["cancelled"]
    assert platform.story(job_id)[-1] == "job.cancelled"
    assert platform.versions() == 0


def test_an_engine_that_prints_garbage_is_not_taken_at_its_word(platform: Platform) -> None:
    platform.worker()
    job_id = platform.submit(act="garbage")
    platform.courier.send(job_id)
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert "note" in platform.story(job_id)


def test_failures_end_an_attempt_with_their_class_and_words(platform: Platform) -> None:
    platform.worker()
    classes = {"data": "failed", "config": "failed", "divergence": "queued", "resource": "queued", "infra": "queued"}
    made = {kind: platform.submit(act="fail", failure=kind) for kind in classes}
    made["unknown"] = platform.submit(act="crash")
    for job_id in made.values():
        platform.courier.send(job_id)
    until(lambda: all(platform.outcomes(job_id) for job_id in made.values()), what="attempts")
    until(lambda: all(None not in platform.outcomes(job_id) for job_id in made.values()), within_s=30, what="ends")

    for kind, status in classes.items():
        job = platform.job(made[kind])
        assert (job.status, platform.outcomes(job.id)) == (status, [kind])
    assert platform.job(made["data"]).reason_code == "scripted_data"
    assert platform.job(made["data"]).reason_message == "It was in the script."
    with platform.database.transaction() as tx:
        crash = jobs.attempts(tx, made["unknown"])[0]
    assert crash.reason_code == "engine_crashed"
    assert "signal SIGABRT" in (crash.reason_message or "")
    assert "the last words of a dying engine" in (crash.reason_message or "")


@pytest.mark.parametrize("act", ["wait", "stubborn"])
def test_cancelling_stops_the_engine_even_if_it_does_not_listen(platform: Platform, act: str) -> None:
    platform.worker()
    job_id = platform.submit(act=act, gate=str(platform.folder / "never"))
    platform.courier.send(job_id)
    engine = platform.until_training(job_id)
    with platform.database.transaction() as tx:
        jobs.cancel(tx, job_id)
    platform.until_status(job_id, JobStatus.CANCELLED, within_s=10)
    assert not psutil.pid_exists(engine)
    assert platform.versions() == 0


def test_a_model_that_is_not_there_fails_with_what_to_do(platform: Platform) -> None:
    job_id = platform.submit(model="local:absent")
    platform.worker()
    platform.courier.send(job_id)
    platform.until_status(job_id, JobStatus.FAILED)
    job = platform.job(job_id)
    assert job.reason_code == "model_not_found"
    assert "holds no absent; put the model there" in (job.reason_message or "")


def test_artifacts_that_differ_from_their_manifest_are_not_published(platform: Platform) -> None:
    platform.worker()
    job_id = platform.submit(act="lie")
    platform.courier.send(job_id)
    until(lambda: platform.outcomes(job_id) == ["unknown"], what="refusal")
    with platform.database.transaction() as tx:
        assert jobs.attempts(tx, job_id)[0].reason_code == "bad_artifacts"
    assert platform.versions() == 0


def test_a_worker_tells_what_it_has_and_says_goodbye(platform: Platform) -> None:
    (platform.folder / "models" / "tiny.gguf").touch()
    worker = platform.worker("w1")
    with platform.database.transaction() as tx:
        (row,) = jobs.workers.alive(tx)
    assert (row.name, row.pool, row.local_models) == ("w1", "default", ["base", "tiny.gguf"])
    worker.stop()
    assert not platform.is_present("w1")
    said = worker.log.read_text().replace("\nworker: Warm shutdown (MainProcess)\n", "")  # Celery's own, on stdout
    for line in said.splitlines():
        assert json.loads(line), "logs are one JSON object a line"


def test_leftovers_of_dead_attempts_are_swept_and_nothing_else(platform: Platform) -> None:
    dead = platform.scratch / f"ftjob-{'0' * 26}-a1-0123abcd"
    foreign = platform.scratch / "somebody's thesis"
    for folder in (dead, foreign):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    platform.worker()
    assert not dead.exists()
    assert (foreign / "file").exists()
    assert sorted(Path(platform.scratch).iterdir()) == [foreign]
