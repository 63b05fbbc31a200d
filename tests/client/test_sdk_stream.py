"""No event is lost and none comes twice, however often the connection breaks."""

import json
from collections.abc import Callable

import pytest
from bitsmith_client.sdk import ApiError, Bitsmith, Disconnected
from bitsmith_client.sdk import jobs as sdk_jobs
from bitsmith_client.sdk.stream import Message, messages

from .conftest import Request, Serve

Client = Callable[[str], Bitsmith]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk_jobs, "RECONNECT_DELAYS_S", (0.0,))


def sse(seq: int) -> str:
    event = {
        "id": f"ftjob-1:{seq}", "seq": seq, "created_at": 0, "level": "info", "type": "message",
        "message": f"event {seq}", "data": {"event": "note"},
    }  # fmt: skip
    return f"id: {seq}\nevent: message\ndata: {json.dumps(event)}\n\n"


DONE = 'event: done\ndata: {"status": "succeeded"}\n\n'


def test_messages_are_read_as_the_standard_says() -> None:
    text = ": comment\n\nid: 7\nevent: metrics\ndata: one\ndata:two\nretry: 5\n\ndata: plain\n\ndata: unfinished"
    assert list(messages(text.split("\n"))) == [
        Message(id="7", event="metrics", data="one\ntwo"),
        Message(id="7", event="message", data="plain"),
    ]


def test_a_broken_stream_goes_on_where_it_broke(serve: Serve, client: Client) -> None:
    scripts = [
        [sse(1), sse(2), sse(3)[:25]],  # breaks within the third
        [],
        [sse(3), ": still here\n\n"],
        [sse(3), sse(4), DONE],  # a server that repeats itself
    ]
    server = serve(lambda request, before: request.stream(*scripts[before]))
    seen = [event.seq for event in client(server.url).jobs.stream("ftjob-1")]
    assert seen == [1, 2, 3, 4]
    assert [request.headers["Last-Event-ID"] for request in server.requests] == ["0", "2", "2", "3"]


def test_a_stream_may_begin_in_the_middle(serve: Serve, client: Client) -> None:
    server = serve(lambda request, before: request.stream(sse(5), DONE))
    assert [event.seq for event in client(server.url).jobs.stream("ftjob-1", after=4)] == [5]
    assert server.requests[0].headers["Last-Event-ID"] == "4"


def test_a_server_that_is_away_for_a_moment_is_waited_for(serve: Serve, client: Client) -> None:
    def answer(request: Request, before: int) -> None:
        if before in (1, 2):
            request.answer_json(503, {"detail": "Postgres does not answer", "code": "database_unavailable"})
        else:
            request.stream(sse(before + 1), DONE if before else "")

    server = serve(answer)
    assert [event.seq for event in client(server.url).jobs.stream("ftjob-1")] == [1, 4]


def test_a_server_that_stays_away_is_given_up_and_the_person_told_how_to_go_on(serve: Serve, client: Client) -> None:
    server = serve(lambda request, before: request.stream(*([sse(1)] if not before else [])))
    with pytest.raises(Disconnected, match=r"after number 1: .*`bitsmith watch ftjob-1`"):
        list(client(server.url).jobs.stream("ftjob-1"))
    assert len(server.requests) == 1 + sdk_jobs.RECONNECT_TRIES - 1


def test_a_job_that_is_not_there_is_not_waited_for(serve: Serve, client: Client) -> None:
    server = serve(lambda request, before: request.answer_json(404, {"detail": "there is no job", "code": "not_found"}))
    with pytest.raises(ApiError, match="there is no job"):
        list(client(server.url).jobs.stream("ftjob-1"))
    assert len(server.requests) == 1
