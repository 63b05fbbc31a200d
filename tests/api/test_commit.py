"""An answer is sent after COMMIT: what was promised is there, and what could not be kept was not promised."""

from collections.abc import Iterator

import httpx
import pytest
from bitsmith_core.db import Database
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, text
from starlette.types import Message, Receive, Scope, Send

from tests.api.conftest import AUTHORIZED, EXAMPLE, Platform, assert_problem

UPLOAD = {"file": ("f.jsonl", EXAMPLE)}
PURPOSE = {"purpose": "fine-tune"}


def test_commit_comes_before_the_first_byte_of_the_answer(app: FastAPI, database: Database) -> None:
    order: list[str] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def record(message: Message) -> None:
            order.append(message["type"])
            await send(message)

        await app(scope, receive, record)

    def record_commit(_: object) -> None:
        order.append("COMMIT")

    client = TestClient(watched, headers=AUTHORIZED)
    event.listen(database.engine, "commit", record_commit)
    try:
        assert client.post("/v1/files", files=UPLOAD, data=PURPOSE).status_code == 200
    finally:
        event.remove(database.engine, "commit", record_commit)
    assert order == ["COMMIT", "http.response.start", "http.response.body"]


@pytest.fixture
def commits_of_files_fail(database: Database) -> Iterator[None]:
    """INSERT works, COMMIT does not: a deferred constraint."""
    with database.transaction() as tx:
        tx.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused at commit'; END $$"
            )
        )
        tx.execute(
            text(
                "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON files DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )
    yield
    with database.transaction() as tx:
        tx.execute(text("DROP TRIGGER refuse ON files"))
        tx.execute(text("DROP FUNCTION refuse()"))


@pytest.mark.usefixtures("commits_of_files_fail")
def test_a_failed_commit_is_a_failed_request(served: str, database: Database) -> None:
    answer = httpx.post(f"{served}/v1/files", files=UPLOAD, data=PURPOSE, headers=AUTHORIZED)
    assert_problem(answer, 500, "internal_error")
    assert "refused at commit" not in answer.text
    assert httpx.get(f"{served}/v1/files", headers=AUTHORIZED).json()["data"] == []


def test_what_was_answered_is_there_for_the_next_request(served: str, platform: Platform) -> None:
    with httpx.Client(base_url=served, headers=AUTHORIZED) as client:
        request = platform.request()
        for _ in range(20):
            job = client.post("/v1/fine_tuning/jobs", json=request).json()
            assert client.get(f"/v1/fine_tuning/jobs/{job['id']}").json() == job


def test_a_real_client_hears_why_its_large_upload_was_refused(served: str) -> None:
    answer = httpx.post(
        f"{served}/v1/files", files={"file": ("f.jsonl", b"x" * 20_000_000)}, data=PURPOSE, headers=AUTHORIZED
    )
    assert_problem(answer, 413, "payload_too_large")
