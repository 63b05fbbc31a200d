"""A job's log reads whole, by its last lines, or from where one stopped reading."""

from pathlib import Path

import pytest
from bitsmith_core import jobs
from bitsmith_core.ids import JobId
from bitsmith_core.storage import S3Store
from bitsmith_core.wire import Failed, FailureClass

from tests.api.conftest import Platform, assert_problem


@pytest.fixture
def write(platform: Platform, store: S3Store, tmp_path: Path) -> "Writer":
    return Writer(platform, store, tmp_path)


class Writer:
    """What a worker does with its engine's log."""

    def __init__(self, platform: Platform, store: S3Store, folder: Path) -> None:
        self._platform, self._store, self._path = platform, store, folder / "chunk"

    def __call__(self, lease: jobs.Lease, number: int, text: str) -> None:
        self._path.write_text(text)
        key = f"{lease.prefix}/logs/{number}"
        self._store.put_file(key, self._path)
        with self._platform.database.transaction() as tx:
            jobs.keep_log(
                tx, lease, number=number, object_key=key, size_bytes=len(text.encode()), lines=text.count("\n")
            )


def path(job_id: JobId) -> str:
    return f"/v1/fine_tuning/jobs/{job_id}/logs"


def test_a_job_without_a_log_has_an_empty_one(platform: Platform) -> None:
    answer = platform.client.get(path(platform.submit()))
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_it_reads_whole_or_by_its_last_lines(platform: Platform, write: Writer) -> None:
    lease = platform.claim(platform.submit())
    write(lease, 0, "one\ntwo\nthr")
    write(lease, 1, "ee\nfour\n")
    assert platform.client.get(path(lease.job_id)).text == "one\ntwo\nthree\nfour\n"
    for tail, expected in ((1, "four\n"), (2, "three\nfour\n"), (9, "one\ntwo\nthree\nfour\n")):
        assert platform.client.get(path(lease.job_id), params={"tail": tail}).text == expected


def test_reading_goes_on_where_it_stopped(platform: Platform, write: Writer) -> None:
    lease = platform.claim(platform.submit())
    write(lease, 0, "one\n")
    first = platform.client.get(path(lease.job_id))
    cursor = first.headers["x-log-cursor"]
    nothing = platform.client.get(path(lease.job_id), params={"after": cursor})
    assert (nothing.text, nothing.headers["x-log-cursor"]) == ("", cursor)
    write(lease, 1, "two\n")
    assert platform.client.get(path(lease.job_id), params={"after": cursor}).text == "two\n"


def test_a_new_attempt_begins_a_log_of_its_own(platform: Platform, write: Writer) -> None:
    lease = platform.claim(platform.submit())
    write(lease, 0, "first try\n")
    cursor = platform.client.get(path(lease.job_id)).headers["x-log-cursor"]
    with platform.database.transaction() as tx:
        jobs.fail(tx, lease, Failed(failure=FailureClass.YIELD, code="worker_stopped", message="Going."))
    second = platform.claim(lease.job_id)
    write(second, 0, "second try\n")
    assert platform.client.get(path(lease.job_id), params={"after": cursor}).text == "second try\n"
    assert platform.client.get(path(lease.job_id)).text == "second try\n"
    assert platform.client.get(path(lease.job_id), params={"attempt": 1}).text == "first try\n"


def test_a_piece_that_is_gone_is_said_to_be(platform: Platform, store: S3Store, write: Writer) -> None:
    lease = platform.claim(platform.submit())
    write(lease, 0, "one\n")
    write(lease, 1, "two\n")
    store.delete(f"{lease.prefix}/logs/0")
    assert platform.client.get(path(lease.job_id)).text == "[this part of the log is no longer kept]\ntwo\n"


@pytest.mark.parametrize("after", ["x", "1", "1:", ":1", "1:-1", "1:x", "99999999999:1"])
def test_a_cursor_of_something_else_is_refused(platform: Platform, after: str) -> None:
    answer = platform.client.get(path(platform.submit()), params={"after": after})
    assert_problem(answer, 422, "invalid_request", "query after")
