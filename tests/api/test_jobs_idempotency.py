"""Under one Idempotency-Key a POST does its work once, whichever it is and however often it comes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from bitsmith_api.deps import Once
from bitsmith_api.routes import behind_key
from bitsmith_core import identity
from bitsmith_core.ids import DEFAULT_PROJECT
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import AUTHORIZED, EXAMPLE, Platform, assert_problem

PATH = "/v1/fine_tuning/jobs"
KEY = {"Idempotency-Key": "order 66"}


def count(client: TestClient) -> int:
    return len(client.get(PATH).json()["data"])


def test_the_same_key_and_body_make_one_job(platform: Platform) -> None:
    request = platform.request(seed=3)
    first = platform.client.post(PATH, json=request, headers=KEY)
    again = platform.client.post(PATH, json=dict(reversed(request.items())), headers=KEY)  # says the same
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert count(platform.client) == 1


def test_the_same_key_at_the_same_moment_makes_one_job(served: str, platform: Platform) -> None:
    request, headers = platform.request(), {**AUTHORIZED, **KEY}
    with ThreadPoolExecutor(8) as clients:
        answers = list(
            clients.map(lambda _: httpx.post(served + PATH, json=request, headers=headers, timeout=60), range(8))
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 7


def test_the_same_key_with_another_body_is_refused(platform: Platform) -> None:
    request = platform.request()
    platform.client.post(PATH, json=request, headers=KEY)
    answer = platform.client.post(PATH, json={**request, "seed": 7}, headers=KEY)
    assert_problem(answer, 422, "idempotency_mismatch")
    assert count(platform.client) == 1


def test_the_same_key_at_another_address_is_refused(platform: Platform) -> None:
    one, two = platform.submit(), platform.submit()
    platform.client.post(f"{PATH}/{one}/pause", headers=KEY)
    assert_problem(platform.client.post(f"{PATH}/{two}/pause", headers=KEY), 422, "idempotency_mismatch")


def test_an_action_is_repeated_in_words_only(platform: Platform) -> None:
    job_id = platform.submit()
    first = platform.client.post(f"{PATH}/{job_id}/pause", headers=KEY)
    platform.client.post(f"{PATH}/{job_id}/resume")
    again = platform.client.post(f"{PATH}/{job_id}/pause", headers=KEY)
    assert again.json() == first.json()
    assert platform.client.get(f"{PATH}/{job_id}").json()["status"] == "queued"


def test_a_clone_is_made_once(platform: Platform) -> None:
    job_id = platform.submit()
    first, again = (platform.client.post(f"{PATH}/{job_id}/clone", headers=KEY).json() for _ in range(2))
    assert first == again
    assert count(platform.client) == 2


def upload(client: TestClient, content: bytes) -> Any:
    # Every request has a boundary of its own, so its bytes differ though it says the same.
    return client.post("/v1/files", files={"file": ("t.jsonl", content)}, data={"purpose": "fine-tune"}, headers=KEY)


def test_a_form_that_says_the_same_makes_one_file(client: TestClient) -> None:
    first, again = upload(client, EXAMPLE), upload(client, EXAMPLE)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert len(client.get("/v1/files").json()["data"]) == 1


def test_a_form_that_says_something_else_is_refused(client: TestClient) -> None:
    upload(client, EXAMPLE)
    assert_problem(upload(client, EXAMPLE * 2), 422, "idempotency_mismatch")
    assert len(client.get("/v1/files").json()["data"]) == 1


def test_a_refusal_is_not_kept(platform: Platform) -> None:
    bad = {**platform.request(), "seed": -1}
    assert_problem(platform.client.post(PATH, json=bad, headers=KEY), 422, "invalid_spec", "/seed")
    assert platform.client.post(PATH, json={**bad, "seed": 1}, headers=KEY).status_code == 200


def test_a_dry_run_uses_no_key(platform: Platform) -> None:
    request = platform.request()
    dry = platform.client.post(PATH, params={"dry_run": "true"}, json=request, headers=KEY)
    assert dry.status_code == 200
    real = platform.client.post(PATH, json=request, headers=KEY)
    assert "idempotent-replayed" not in real.headers
    assert real.json()["object"] == "fine_tuning.job"


def test_a_request_that_takes_too_long_is_not_waited_for(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsmith_core.identity.answers.WAIT_S", 1)
    request = platform.request()
    with platform.database.transaction() as tx:  # an earlier request, still at work
        identity.replayed(tx, KEY["Idempotency-Key"], project=DEFAULT_PROJECT, request_sha256="0")
        answer = platform.client.post(PATH, json=request, headers=KEY)
    document = assert_problem(answer, 409, "idempotency_in_progress")
    assert document["retryable"] is True
    assert int(answer.headers["retry-after"]) > 0
    assert platform.client.post(PATH, json=request, headers=KEY).status_code == 200


def test_a_key_has_bounds(platform: Platform) -> None:
    request = platform.request()
    for key in ("", "x" * 256):
        answer = platform.client.post(PATH, json=request, headers={"Idempotency-Key": key})
        assert_problem(answer, 422, "invalid_request", "header Idempotency-Key")
    assert platform.client.post(PATH, json=request, headers={"Idempotency-Key": "x" * 255}).status_code == 200


def test_what_is_told_once_is_not_kept_with_the_answer(platform: Platform) -> None:
    body = {"name": "ci", "role": "member"}
    first, again = (platform.client.post("/v1/api_keys", json=body, headers=KEY) for _ in range(2))
    assert first.status_code < 300, first.text
    secret = first.json()["key"]
    assert (again.json()["id"], again.json()["key"]) == (first.json()["id"], None)
    with platform.database.transaction() as tx:
        kept = tx.scalar(text("SELECT string_agg(answer::text, '') FROM idempotency_keys"))
    assert secret.rpartition("_")[2] not in (kept or "")


def test_every_post_heeds_the_key() -> None:
    posts = [
        route
        for router in behind_key
        for route in router.routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ()) and "chat" not in route.path
    ]
    assert len(posts) >= 8
    assert [route.path for route in posts if not isinstance(route, Once)] == []
