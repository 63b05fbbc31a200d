"""An evaluation is a job like any other, but for what comes of it: a record of a version that is there already."""

from collections.abc import Callable

import pytest
from bitsmith_core import jobs, registry
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.jobs import JobStatus
from bitsmith_core.registry import evals
from bitsmith_core.spec import JobSpec

from tests.worker.conftest import Platform


@pytest.fixture
def evaluate(platform: Platform) -> Callable[..., JobId]:
    """Submit an evaluation of the version that a first job publishes."""
    platform.scheduler()
    platform.worker()
    made = platform.submit()
    platform.until_status(made, JobStatus.SUCCEEDED)
    validation = JobSpec.model_validate(platform.job(made).spec).validation_file

    def submit(*, base: bool = True, **metadata: str) -> JobId:
        method = {"type": "evaluate", "evaluate": {"version": "base-qsft@1", "base": base}}
        request = {"model": "local:base", "validation_file": validation, "metadata": metadata, "method": method}
        with platform.database.transaction() as tx:
            return jobs.submit(tx, JobSpec.model_validate(request), project=DEFAULT_PROJECT).id

    return submit


def headlines(platform: Platform) -> dict[str, float]:
    with platform.database.transaction() as tx:
        found = evals.page(tx, project=DEFAULT_PROJECT, limit=10)
    return {row.task: row.value for evaluation in found for row in evaluation.results if row.is_headline}


def test_it_adds_a_record_to_its_version_and_makes_no_other(platform: Platform, evaluate: Callable[..., JobId]) -> None:
    assert headlines(platform) == {}
    job_id = evaluate(base=False)
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    with platform.database.transaction() as tx:
        newest, own = evals.page(tx, project=DEFAULT_PROJECT, limit=10)
    assert (newest.version, newest.row.job_id) == (own.version, job_id) == ("base-qsft@1", job_id)
    assert platform.events(job_id)[-1]["result"] == newest.row.id
    assert (platform.versions(), headlines(platform)) == (1, {"piqa": 0.75})


def test_its_engine_is_given_the_version_and_no_training_file(
    platform: Platform, evaluate: Callable[..., JobId]
) -> None:
    job_id = evaluate(base=False)
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    with platform.database.transaction() as tx:
        version = registry.get_version(tx, "base-qsft", 1, project=DEFAULT_PROJECT)
        top = {file.path for file in version.files if "/" not in file.path}
        evaluation = evals.page(tx, project=DEFAULT_PROJECT, limit=1)[0].row
    given = evaluation.environment["device"].split()  # the scripted engine says there what it was given
    assert set(given) == {"manifest.json", "packs", "validation.jsonl", "version", *top}
    assert evaluation.items_key is not None
    assert platform.store.stat(evaluation.items_key) is not None


def test_a_failed_attempt_leaves_nothing_and_the_next_one_publishes_once(
    platform: Platform, evaluate: Callable[..., JobId]
) -> None:
    once = str(platform.folder / "once")
    job_id = evaluate(act="fail", failure="unknown", only=once)
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert platform.job(job_id).attempt_no == 2
    with platform.database.transaction() as tx:
        assert len(evals.page(tx, project=DEFAULT_PROJECT, limit=10)) == 2


def test_a_version_that_is_deleted_meanwhile_ends_the_job_with_the_reason(
    platform: Platform, evaluate: Callable[..., JobId]
) -> None:
    gate = platform.folder / "go"
    job_id = evaluate(act="wait", gate=str(gate))
    platform.until_training(job_id)
    with platform.database.transaction() as tx:
        registry.delete(tx, "base-qsft", 1, project=DEFAULT_PROJECT)
    gate.touch()
    platform.until_status(job_id, JobStatus.FAILED)
    job = platform.job(job_id)
    assert job.reason_code == "version_gone"
    assert "base-qsft@1" in str(job.reason_message)
