"""A job's history reads as pages in either direction; a finished one streams to its end at once."""

import threading

import pytest
from bitsmith_core.ids import JobId, new_job_id
from fastapi.testclient import TestClient

from tests.api.conftest import Platform, assert_problem


def path(job_id: JobId) -> str:
    return f"/v1/fine_tuning/jobs/{job_id}/events"


@pytest.fixture
def job_id(platform: Platform) -> JobId:
    """Over, with six events: queued, started, three notes, succeeded."""
    job_id = platform.submit()
    lease = platform.claim(job_id)
    for message in ("one", "two\nlines", "drei \N{SNOWMAN}"):
        platform.note(lease, message)
    platform.finish(lease)
    return job_id


def numbers(client: TestClient, job_id: JobId, **query: str | int) -> list[int]:
    return [event["seq"] for event in client.get(path(job_id), params=query).json()["data"]]


def test_an_event_says_what_happened(client: TestClient, job_id: JobId) -> None:
    event = client.get(path(job_id), params={"limit": 1}).json()["data"][0]
    assert isinstance(event.pop("created_at"), int)
    assert event == {
        "object": "fine_tuning.job.event",
        "id": f"{job_id}:6",
        "seq": 6,
        "level": "info",
        "type": "message",
        "message": "Published as m@1.",
        "data": {"event": "job.succeeded", "result": "m@1"},
    }


def test_newest_come_first_unless_asked_otherwise(client: TestClient, job_id: JobId) -> None:
    assert numbers(client, job_id) == [6, 5, 4, 3, 2, 1]
    assert numbers(client, job_id, order="desc") == [6, 5, 4, 3, 2, 1]
    assert numbers(client, job_id, order="asc") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_follow_each_other_without_gap_or_double(client: TestClient, job_id: JobId, order: str) -> None:
    seen: list[int] = []
    query: dict[str, str | int] = {"limit": 4, "order": order}
    while True:
        page = client.get(path(job_id), params=query).json()
        seen += [event["seq"] for event in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert seen == sorted(range(1, 7), reverse=order == "desc")


@pytest.mark.parametrize(
    "after", ["x", "3", "ftjob-0kp1p4n3vtsu5qc1q0o8g0a4lk:3", "{job}:x", "{job}:-1", "{job}:99999999999", "{job}:"]
)
def test_a_cursor_of_something_else_is_refused(client: TestClient, job_id: JobId, after: str) -> None:
    answer = client.get(path(job_id), params={"after": after.replace("{job}", job_id)})
    assert_problem(answer, 422, "invalid_request", "query after")


def streamed(client: TestClient, job_id: JobId, query: str = "", **headers: str) -> str:
    with client.stream("GET", path(job_id) + query, headers={"Accept": "text/event-stream", **headers}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        return "".join(answer.iter_text())


def ids(stream: str) -> list[int]:
    return [int(line.removeprefix("id: ")) for line in stream.splitlines() if line.startswith("id: ")]


def test_a_finished_job_streams_to_its_end(client: TestClient, job_id: JobId) -> None:
    stream = streamed(client, job_id)
    assert ids(stream) == [1, 2, 3, 4, 5, 6]
    assert stream.endswith('event: done\ndata: {"status": "succeeded"}\n\n')


def test_each_event_is_one_data_line_whatever_its_text(client: TestClient, job_id: JobId) -> None:
    blocks = streamed(client, job_id).strip().split("\n\n")
    assert [[line.partition(":")[0] for line in block.split("\n")] for block in blocks] == [
        *[["id", "event", "data"]] * 6,
        ["event", "data"],
    ]


def test_a_stream_begins_after_the_last_event_seen(client: TestClient, job_id: JobId) -> None:
    assert ids(streamed(client, job_id, **{"Last-Event-ID": "4"})) == [5, 6]
    assert ids(streamed(client, job_id, **{"Last-Event-ID": ""})) == [1, 2, 3, 4, 5, 6]
    assert ids(streamed(client, job_id, query=f"?after={job_id}:3")) == [4, 5, 6]
    assert ids(streamed(client, job_id, query=f"?after={job_id}:3", **{"Last-Event-ID": "5"})) == [6]
    assert streamed(client, job_id, **{"Last-Event-ID": "6"}).startswith("event: done")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "99999999999", "²"])
def test_a_last_event_id_that_is_no_number_is_refused(client: TestClient, job_id: JobId, last: str) -> None:
    headers = {b"Accept": b"text/event-stream", b"Last-Event-ID": last.encode()}
    assert_problem(client.get(path(job_id), headers=headers), 422, "invalid_request", "header Last-Event-ID")


def test_any_other_accept_header_gets_a_page(client: TestClient, job_id: JobId) -> None:
    for accept in ("*/*", "application/json", "text/html"):
        assert client.get(path(job_id), headers={"Accept": accept}).json()["object"] == "list"


def test_a_silent_stream_is_kept_alive(client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsmith_api.routes.stream.KEEP_ALIVE_S", 0.0)
    lease = platform.claim(platform.submit())
    finish = threading.Timer(1.5, platform.finish, [lease])
    finish.start()
    stream = streamed(client, lease.job_id)
    finish.join()
    assert ": keep-alive\n\n" in stream
    assert ids(stream) == [1, 2, 3]


def test_an_unknown_job_has_no_stream(client: TestClient) -> None:
    answer = client.get(path(new_job_id()), headers={"Accept": "text/event-stream"})
    assert_problem(answer, 404, "not_found")
