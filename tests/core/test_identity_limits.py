"""A project has at most what it may, however many requests come at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from bitsmith_core import files, jobs
from bitsmith_core.clock import utc_now
from bitsmith_core.db import Database, Tx
from bitsmith_core.errors import Conflict, NotFound, QuotaExceeded
from bitsmith_core.identity import limits, projects
from bitsmith_core.identity.limits import Limits, effective
from bitsmith_core.ids import DEFAULT_PROJECT, ProjectId
from bitsmith_core.spec import JobSpec
from sqlalchemy import text

from tests.conftest import add_file

INSTALLATION = Limits(requests_per_minute=60, open_jobs=2, storage_bytes=1000)


def check_jobs(tx: Tx, project: ProjectId = DEFAULT_PROJECT) -> None:
    limits.check_open_jobs(tx, project=project, installation=INSTALLATION)


def check_bytes(tx: Tx, more_bytes: int, project: ProjectId = DEFAULT_PROJECT) -> None:
    limits.check_storage(tx, project=project, more_bytes=more_bytes, installation=INSTALLATION)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, 2),
        ({"open_jobs": None}, 2),
        ({"open_jobs": 0}, 0),
        ({"open_jobs": 7, "running_jobs": 1}, 7),  # what others look at does not disturb
    ],
)
def test_a_projects_own_limit_wins(own: dict[str, Any], expected: int) -> None:
    assert effective(own, INSTALLATION).open_jobs == expected


def test_a_job_that_is_over_makes_room(tx: Tx, spec: JobSpec) -> None:
    check_jobs(tx)
    first = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    check_jobs(tx)
    jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    with pytest.raises(QuotaExceeded, match="2 jobs"):
        check_jobs(tx)
    jobs.cancel(tx, first.id)
    check_jobs(tx)


def test_paused_jobs_count(tx: Tx, spec: JobSpec) -> None:
    for _ in range(2):
        jobs.pause(tx, jobs.submit(tx, spec, project=DEFAULT_PROJECT).id)
    with pytest.raises(QuotaExceeded):
        check_jobs(tx)


def test_one_projects_jobs_do_not_count_for_another(tx: Tx, spec: JobSpec) -> None:
    for _ in range(2):
        jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    check_jobs(tx, projects.create(tx, name="blue").id)


def test_the_projects_own_limit_counts_from_the_next_request_on(tx: Tx, spec: JobSpec) -> None:
    projects.change(tx, DEFAULT_PROJECT, limits={"open_jobs": 0})
    with pytest.raises(QuotaExceeded):
        check_jobs(tx)
    projects.change(tx, DEFAULT_PROJECT, limits={})
    check_jobs(tx)


def test_files_and_uploads_under_way_take_room_until_they_go(tx: Tx) -> None:
    file_id = add_file(tx)
    upload = text(
        "INSERT INTO uploads (id, project_id, filename, purpose, mime_type, bytes, expires_at)"
        " VALUES (:id, :project, 'f', 'fine-tune', 'text/jsonl', 600, :expires)"
    )
    tx.execute(upload, {"id": "u1", "project": DEFAULT_PROJECT, "expires": utc_now() + timedelta(hours=1)})
    tx.execute(upload, {"id": "u2", "project": DEFAULT_PROJECT, "expires": utc_now() - timedelta(hours=1)})
    assert limits.stored_bytes(tx, project=DEFAULT_PROJECT) == 601
    check_bytes(tx, 399)
    with pytest.raises(QuotaExceeded, match="601"):
        check_bytes(tx, 400)
    tx.execute(text("UPDATE files SET deleted_at = now() WHERE id = :id"), {"id": file_id})
    check_bytes(tx, 400)


def test_two_requests_at_once_do_not_share_the_last_place(database: Database) -> None:
    def submit(start: Barrier) -> bool:
        start.wait()
        with database.transaction() as tx:
            try:
                check_jobs(tx)
            except QuotaExceeded:
                return False
            spec = JobSpec(
                model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx, "validation.jsonl")
            )
            jobs.submit(tx, spec, project=DEFAULT_PROJECT)
            return True

    barrier = Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        submitted = list(pool.map(submit, [barrier] * 8))
    assert sum(submitted) == INSTALLATION.open_jobs


def test_a_name_is_one_projects_only(tx: Tx) -> None:
    blue = projects.create(tx, name="blue")
    with pytest.raises(Conflict, match="blue"):
        projects.create(tx, name="blue")
    with pytest.raises(Conflict, match="default"):
        projects.change(tx, blue.id, name="default")
    assert projects.change(tx, blue.id, name="blue", weight=2.0).weight == 2.0


def test_a_project_with_jobs_that_are_not_over_is_not_archived(tx: Tx) -> None:
    blue = projects.create(tx, name="blue").id
    spec = JobSpec(
        model="hf:org/tiny",
        training_file=_owned(tx, blue, add_file(tx)),
        validation_file=_owned(tx, blue, add_file(tx)),
    )
    job = jobs.submit(tx, spec, project=blue)
    with pytest.raises(Conflict, match="1 jobs"):
        projects.archive(tx, blue)
    jobs.cancel(tx, job.id)
    assert projects.archive(tx, blue).archived_at is not None
    assert projects.restore(tx, blue).archived_at is None


def _owned(tx: Tx, project: ProjectId, file_id: str) -> str:
    tx.execute(text("UPDATE files SET project_id = :project WHERE id = :id"), {"project": project, "id": file_id})
    tx.expire_all()
    return file_id


@pytest.mark.parametrize("act", [projects.archive, projects.restore, projects.get, projects.change])
def test_there_is_no_project_that_nobody_made(tx: Tx, act: Callable[..., object]) -> None:
    with pytest.raises(NotFound):
        act(tx, ProjectId("proj-nowhere"))


def test_the_default_project_stays(tx: Tx) -> None:
    with pytest.raises(Conflict):
        projects.archive(tx, DEFAULT_PROJECT)


def test_stored_bytes_are_those_of_the_rows_however_they_came_and_went(database: Database) -> None:
    """Counted as it happens, by transactions that do not wait for each other's ends to be seen."""

    def come_and_go(number: int) -> None:
        with database.transaction() as tx:
            kept, gone = (
                files.add(
                    tx,
                    project=DEFAULT_PROJECT,
                    filename=f"{number}.jsonl",
                    purpose="fine-tune",
                    size_bytes=size_bytes,
                    sha256=f"{number:064x}",
                    examples=1,
                )
                for size_bytes in (10**number, 7)
            )
        with database.transaction() as tx:
            files.delete(tx, gone.id)
        with suppress(RuntimeError), database.transaction() as tx:
            files.delete(tx, kept.id)
            raise RuntimeError

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(come_and_go, range(6)))
    with database.transaction() as tx:
        assert limits.stored_bytes(tx, project=DEFAULT_PROJECT) == 111_111
        other = projects.create(tx, name="blue").id
        tx.execute(text("UPDATE files SET project_id = :other WHERE bytes = 1000"), {"other": other})
        assert limits.stored_bytes(tx, project=DEFAULT_PROJECT) == 110_111
        assert limits.stored_bytes(tx, project=other) == 1000
        tx.execute(text("DELETE FROM files WHERE bytes = 10"))
        assert limits.stored_bytes(tx, project=DEFAULT_PROJECT) == 110_101
