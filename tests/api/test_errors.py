"""Every refusal is a problem document that says what to do and nothing about our insides."""

from collections.abc import Iterator

import pytest
import structlog
from bitsmith_api.errors import STATUS, status_of
from bitsmith_core.db import Database
from bitsmith_core.errors import (
    BitsmithError,
    Conflict,
    DatabaseUnavailable,
    IdempotencyMismatch,
    IllegalTransition,
    InvalidFile,
    InvalidSpec,
    LeaseLost,
    NotFound,
    StoreUnavailable,
    Unauthorized,
)
from bitsmith_core.storage import S3Store
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.api.conftest import AUTHORIZED, KEY, NOWHERE, Platform, application, assert_problem


def leaves(kind: type[BitsmithError]) -> Iterator[type[BitsmithError]]:
    if not kind.__subclasses__():
        yield kind
    for child in kind.__subclasses__():
        yield from leaves(child)


def test_every_error_that_can_be_raised_has_a_status() -> None:
    # Only the API's and core's own: engine and worker errors never reach HTTP.
    ours = [kind for kind in leaves(BitsmithError) if kind.__module__.startswith(("bitsmith_core", "bitsmith_api"))]
    assert len(ours) >= len(STATUS)
    assert [kind.__name__ for kind in ours if status_of(kind) is None] == []


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (InvalidSpec, 422),
        (InvalidFile, 422),
        (IdempotencyMismatch, 422),
        (NotFound, 404),
        (Unauthorized, 401),
        (Conflict, 409),
        (IllegalTransition, 409),
        (LeaseLost, 409),
        (StoreUnavailable, 503),
        (DatabaseUnavailable, 503),
    ],
)
def test_the_class_of_an_error_decides_its_status(kind: type[BitsmithError], status: int) -> None:
    assert status_of(kind) == status


def test_an_unknown_address_answers_404(client: TestClient) -> None:
    document = assert_problem(client.get("/v1/nothing"), 404, "not_found")
    assert document["instance"] == "/v1/nothing"
    assert document["error"]["type"] == "invalid_request_error"


def test_a_wrong_method_answers_405_and_says_which_is_right(client: TestClient) -> None:
    answer = client.delete("/v1/models")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


def test_what_nobody_foresaw_answers_500_without_our_insides(app: FastAPI, client: TestClient) -> None:
    def broken() -> None:
        raise RuntimeError("secret detail")

    app.add_api_route("/broken", broken)
    with structlog.testing.capture_logs() as logs:
        answer = client.get("/broken")
    document = assert_problem(answer, 500, "internal_error")
    assert "secret detail" not in answer.text
    assert document["retryable"] is False
    failed = next(entry for entry in logs if entry["event"] == "request.failed")
    assert failed["exc_info"]
    metrics = client.get("/metrics").text
    assert 'bitsmith_http_requests_total{method="GET",route="/broken",status="500"} 1.0' in metrics


def test_without_postgres_the_answer_is_to_try_again(store: S3Store) -> None:
    with TestClient(application(Database(NOWHERE), store), headers=AUTHORIZED) as client:
        answer = client.get("/v1/files")
    document = assert_problem(answer, 503, "database_unavailable")
    assert document["retryable"] is True
    assert document["error"]["type"] == "server_error"
    assert int(answer.headers["retry-after"]) > 0
    assert "127.0.0.1" not in answer.text
    assert "nobody" not in answer.text


def test_a_request_keeps_the_id_its_client_gave_it(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("harmful", ["", "a b", "x" * 129, "{}"])
def test_a_harmful_request_id_is_replaced(client: TestClient, harmful: str) -> None:
    given = client.get("/livez", headers={"X-Request-Id": harmful}).headers["x-request-id"]
    assert given != harmful
    assert len(given) == 32


def test_each_request_is_one_line_in_the_log_under_its_id(client: TestClient) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        client.get("/v1/models/absent?token=hidden", headers={"X-Request-Id": "mine-2"})
    (line,) = [entry for entry in logs if entry["event"] == "request.answered"]
    assert (line["request_id"], line["path"], line["status"]) == ("mine-2", "/v1/models/absent", 404)


def test_no_key_is_ever_logged(client: TestClient, platform: Platform) -> None:
    with structlog.testing.capture_logs() as logs:
        platform.submit()
        client.get("/v1/files", headers={"Authorization": "Bearer another-key"})
    assert logs
    assert KEY not in str(logs)
    assert "another-key" not in str(logs)
