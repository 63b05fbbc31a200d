"""A request is repeated only where that is safe, and every failure says what to do."""

from collections.abc import Callable

import pytest
from bitsmith_client.lab import servers
from bitsmith_client.sdk import ApiError, Bitsmith, Disconnected, Unreachable, transport

from .conftest import Request, Serve

Client = Callable[[str], Bitsmith]

JOB = {
    "id": "ftjob-1",
    "model": "hf:a/b",
    "training_file": "f",
    "validation_file": "g",
    "status": "queued",
    "created_at": 1,
}
PAGE = {"object": "list", "data": [], "has_more": False}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_DELAY_S", 0.0)


def test_no_server_at_all_is_said_with_the_url_and_what_to_do(client: Client) -> None:
    url = f"http://127.0.0.1:{servers.free_port()}"
    with pytest.raises(Unreachable, match=rf"no server answers at {url}.*`bitsmith up`"):
        client(url).files.list()


def test_something_else_on_the_port_is_said(serve: Serve, client: Client) -> None:
    server = serve(lambda request, before: request.answer(200, b"<html>hello</html>"))
    with pytest.raises(Unreachable, match="not Bitsmith"):
        client(server.url).files.list()


def test_a_read_is_repeated_while_the_server_is_away(serve: Serve, client: Client) -> None:
    def answer(request: Request, before: int) -> None:
        if before == 0:
            request.hang_up()
        elif before == 1:
            request.answer_json(503, {})
        else:
            request.answer_json(200, PAGE)

    server = serve(answer)
    assert client(server.url).files.list() == []
    assert len(server.requests) == 3


def test_a_submission_is_repeated_under_one_key(serve: Serve, client: Client) -> None:
    server = serve(lambda request, before: request.answer_json(200, JOB) if before else request.hang_up())
    client(server.url).jobs.create({"model": "hf:a/b"})
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_what_has_no_key_is_sent_once(serve: Serve, client: Client) -> None:
    server = serve(lambda request, before: request.hang_up())
    with pytest.raises(Disconnected):
        client(server.url).jobs.cancel("ftjob-1")
    assert len(server.requests) == 1


def test_a_refusal_is_not_repeated_and_names_every_place(serve: Serve, client: Client) -> None:
    problem = {
        "status": 422,
        "detail": "bpw is 9",
        "code": "invalid_spec",
        "errors": [
            {"pointer": "/method/qsft/quantization/bpw", "code": "less_than_equal", "detail": "at most 4"},
            {"pointer": "/suffix", "code": "pattern", "detail": "lower case only"},
        ],
    }
    server = serve(lambda request, before: request.answer_json(422, problem))
    with pytest.raises(ApiError) as refused:
        client(server.url).jobs.create({})
    assert len(server.requests) == 1
    assert (refused.value.status, refused.value.code) == (422, "invalid_spec")
    assert str(refused.value) == "bpw is 9; /method/qsft/quantization/bpw: at most 4; /suffix: lower case only"


def test_a_wrong_key_says_where_the_right_one_goes(serve: Serve, client: Client) -> None:
    server = serve(lambda request, before: request.answer_json(401, {"detail": "unknown key", "code": "unauthorized"}))
    with pytest.raises(ApiError, match="BITSMITH_API_KEY"):
        client(server.url).jobs.list()


def test_all_pages_are_one_list(serve: Serve, client: Client) -> None:
    def answer(request: Request, before: int) -> None:
        page = {"data": [{**JOB, "id": f"ftjob-{before}"}], "has_more": before < 2, "last_id": f"ftjob-{before}"}
        request.answer_json(200, page)

    server = serve(answer)
    assert [job.id for job in client(server.url).jobs.list(limit=50)] == ["ftjob-0", "ftjob-1", "ftjob-2"]
    assert "after=ftjob-1" in server.requests[2].path
    assert [job.id for job in client(server.url).jobs.list(limit=1)] == ["ftjob-3"]


def test_an_id_is_never_a_path(serve: Serve, client: Client) -> None:
    server = serve(lambda request, before: request.answer_json(200, JOB))
    client(server.url).jobs.get("../../models")
    assert server.requests[0].path == "/v1/fine_tuning/jobs/..%2F..%2Fmodels"
