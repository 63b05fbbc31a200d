"""A worker whose disk is full says so, publishes nothing, and another one does the job."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bitsmith_core.jobs import JobStatus
from sqlalchemy import text

from tests.worker.conftest import Platform, until


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own without a byte left."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    with contextlib.suppress(OSError), (folder / "somebody's film").open("wb", buffering=0) as film:
        while True:
            film.write(b"0" * 4096)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.failure("disk full")
def test_a_full_disk_has_a_name_and_another_worker_takes_over(platform: Platform, full_disk: Path) -> None:
    platform.worker("small", BITSMITH_WORKER_SCRATCH=str(full_disk))
    job_id = platform.submit()
    platform.courier.send(job_id)
    until(lambda: platform.outcomes(job_id) != [], what="the first attempt")
    until(lambda: None not in platform.outcomes(job_id), what="the first attempt's end")
    (first,) = platform.attempts(job_id)
    assert (first.worker, first.outcome, first.reason_code) == ("small", "resource", "disk_full")
    assert "The disk of this worker is full" in (first.reason_message or "")
    assert platform.versions() == 0
    assert list(platform.store.list(f"jobs/{job_id}/")) == []

    platform.worker("large")
    platform.scheduler()

    def is_over() -> bool:
        with platform.database.transaction() as tx:  # the small one may take the message, and drop it
            tx.execute(text("UPDATE jobs SET offered_at = offered_at - interval '1 s' WHERE offered_at IS NOT NULL"))
        return platform.job(job_id).status == JobStatus.SUCCEEDED

    until(is_over, within_s=60, what="success")
    assert [(attempt.worker, attempt.outcome) for attempt in platform.attempts(job_id)] == [
        ("small", "resource"),
        ("large", "succeeded"),
    ]
    assert platform.versions() == 1
