"""With the real engine: a worker that has several processes makes one model of them, and ends them together."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from bitsmith_client.lab.child import Child
from bitsmith_core import jobs
from bitsmith_core.bundle import Manifest
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import JobStatus
from bitsmith_core.spec import JobSpec

from tests.lifecycle.test_identity import ENGINE, PATIENCE_S, digest_of, spec, submit  # noqa: F401  # a fixture
from tests.worker.conftest import Platform, family, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def two_ranks(platform: Platform) -> Child:
    return platform.worker("w1", BITSMITH_WORKER_ENGINE=ENGINE, BITSMITH_WORKER_PROCESSES="2")


def ranks_of(worker: Child) -> dict[int, psutil.Process]:
    """The engine's processes by their rank, as their own environment tells it."""
    found = {}
    for process in family(worker):
        try:
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if environment.get("WORLD_SIZE") == "2":
            found[int(environment["RANK"])] = process
    return found


def trained(platform: Platform, job_id: JobId) -> int:
    """The step that a next attempt would train on from."""
    with platform.database.transaction() as tx:
        kept = jobs.checkpoints(tx, job_id)
    return max((checkpoint.step for checkpoint in kept if checkpoint.stage == "training"), default=0)


def by_hand(platform: Platform, job: JobSpec) -> Manifest:
    """What torchrun makes of the same spec and files, without a platform."""
    inputs, out = platform.folder / "by-hand", platform.folder / "out"
    inputs.mkdir()
    (inputs / "model").symlink_to(platform.folder / "models" / "toy")
    for name in ("training.jsonl", "validation.jsonl"):
        (inputs / name).symlink_to(platform.folder / name)
    spec_file = platform.folder / "spec.json"
    spec_file.write_text(job.model_dump_json())
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
        sys.executable, "-m", "bitsmith_engine", str(spec_file), str(inputs), str(out),
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}  # as under a worker: the tokenizer's configuration tells of it
    ended = subprocess.run(
        command, capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    return Manifest.model_validate_json((out / "artifacts" / "manifest.json").read_bytes())


@pytest.mark.failure("engine killed")
def test_two_ranks_make_what_torchrun_makes_whatever_happens_to_them(platform: Platform, spec: JobSpec) -> None:  # noqa: F811
    platform.scheduler()
    worker = two_ranks(platform)
    job_id = submit(platform, spec)
    until(lambda: trained(platform, job_id) > 0, within_s=PATIENCE_S, what="a checkpoint")
    first = ranks_of(worker)
    assert set(first) == {0, 1}

    os.kill(first[1].pid, signal.SIGKILL)
    until(lambda: platform.outcomes(job_id)[:1] == ["infra"], what="the attempt's end")
    assert not any(process.is_running() for process in first.values())
    lost = platform.attempts(job_id)[0]
    assert (lost.reason_code, lost.exit_code) == ("engine_killed", -signal.SIGKILL)

    kept = trained(platform, job_id)
    until(lambda: trained(platform, job_id) > kept, within_s=PATIENCE_S, what="going on")
    with platform.database.transaction() as tx:
        jobs.pause(tx, job_id)
    platform.until_status(job_id, JobStatus.PAUSED)
    assert ranks_of(worker) == {}
    with platform.database.transaction() as tx:
        jobs.resume(tx, job_id)
    platform.until_status(job_id, JobStatus.SUCCEEDED, within_s=PATIENCE_S)

    assert platform.outcomes(job_id) == ["infra", "paused", "succeeded"]
    assert [(attempt.start_step or 0) >= kept > 0 for attempt in platform.attempts(job_id)] == [False, True, True]
    assert digest_of(platform, job_id) == by_hand(platform, spec).sha256
    assert platform.versions() == 1


def test_cancelling_ends_every_rank_and_so_does_the_end_of_the_worker(platform: Platform, spec: JobSpec) -> None:  # noqa: F811
    platform.scheduler()
    worker = two_ranks(platform)
    cancelled = submit(platform, spec)
    until(lambda: len(ranks_of(worker)) == 2, within_s=PATIENCE_S, what="two ranks")
    ranks = list(ranks_of(worker).values())
    with platform.database.transaction() as tx:
        jobs.cancel(tx, cancelled)
    platform.until_status(cancelled, JobStatus.CANCELLED)
    until(lambda: not any(rank.is_running() for rank in ranks), what="the ranks' end")

    orphaned = submit(platform, spec)
    until(lambda: len(ranks_of(worker)) == 2, within_s=PATIENCE_S, what="two ranks")
    ranks = list(ranks_of(worker).values())
    worker.kill()
    until(lambda: not any(rank.is_running() for rank in ranks), what="the orphans' end")
    with platform.database.transaction() as tx:
        jobs.cancel(tx, orphaned)
