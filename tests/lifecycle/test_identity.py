"""With the real engine: a worker that is killed in training leaves no trace in the model, not in one bit."""

import json
import sys

import pytest
from bitsmith_core import files, jobs
from bitsmith_core.ids import DEFAULT_PROJECT, FileId, JobId
from bitsmith_core.jobs import JobStatus
from bitsmith_core.spec import JobSpec
from sqlalchemy import text
from toy_model import save_toy_model, write_examples

from tests.engine.conftest import toy_spec
from tests.worker.conftest import Platform, until

ENGINE = json.dumps([sys.executable, "-m", "bitsmith_engine"])
PATIENCE_S = 100.0  # torch alone takes seconds to load, three times


def upload(platform: Platform, name: str, count: int) -> FileId:
    path = platform.folder / name
    write_examples(path, count, offset=len(name))
    sha256, size_bytes = files.store_bytes(platform.store, path), path.stat().st_size
    with platform.database.transaction() as tx:
        return files.add(
            tx, project=DEFAULT_PROJECT, filename=name, purpose="fine-tune", size_bytes=size_bytes, sha256=sha256,
            examples=count,
        ).id  # fmt: skip


@pytest.fixture
def spec(platform: Platform) -> JobSpec:
    save_toy_model(platform.folder / "models" / "toy")
    document = toy_spec().model_dump(mode="json")
    document |= {
        "training_file": upload(platform, "training.jsonl", 48),
        "validation_file": upload(platform, "validation.jsonl", 12),
    }
    document["method"]["qsft"]["training"] |= {"epochs": 10, "checkpoint_steps": 3}
    return JobSpec.model_validate(document)


def submit(platform: Platform, spec: JobSpec) -> JobId:
    with platform.database.transaction() as tx:
        return jobs.submit(tx, spec, project=DEFAULT_PROJECT).id


def engine_worker(platform: Platform, name: str) -> None:
    folder = platform.folder / f"scratch-{name}"
    platform.worker(name, BITSMITH_WORKER_ENGINE=ENGINE, BITSMITH_WORKER_SCRATCH=str(folder))


def digest_of(platform: Platform, job_id: JobId) -> str:
    with platform.database.transaction() as tx:
        return str(tx.scalar(text("SELECT manifest_sha256 FROM versions WHERE job_id = :id"), {"id": job_id}))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.failure("worker killed")
def test_a_model_whose_worker_was_killed_in_training_is_the_same_bit_for_bit(platform: Platform, spec: JobSpec) -> None:
    platform.scheduler()
    engine_worker(platform, "w1")
    undisturbed = submit(platform, spec)
    platform.until_status(undisturbed, JobStatus.SUCCEEDED, within_s=PATIENCE_S)

    disturbed = submit(platform, spec)
    until(lambda: len(platform.steps_kept(disturbed)) == 2, within_s=PATIENCE_S, what="the second checkpoint")
    platform.children[-1].kill()
    kept = max(platform.steps_kept(disturbed))
    engine_worker(platform, "w2")
    platform.until_status(disturbed, JobStatus.SUCCEEDED, within_s=PATIENCE_S)

    killed, succeeded = platform.attempts(disturbed)
    assert (killed.outcome, succeeded.outcome) == ("infra", "succeeded")
    assert killed.end_step is not None
    assert succeeded.start_step is not None
    assert 0 < kept <= succeeded.start_step
    assert killed.end_step - succeeded.start_step <= 2 * 3, "what was lost lies within what was not uploaded yet"
    assert digest_of(platform, disturbed) == digest_of(platform, undisturbed)
