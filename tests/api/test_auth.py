"""Everything under /v1 asks for the key, before it reads or says anything else."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.api.conftest import KEY, assert_problem


@pytest.fixture
def stranger(app: FastAPI) -> TestClient:
    return TestClient(app)


def test_every_address_under_v1_asks_for_the_key(app: FastAPI, stranger: TestClient) -> None:
    under_v1 = {path: operations for path, operations in app.openapi()["paths"].items() if path.startswith("/v1")}
    assert len(under_v1) >= 8
    for path, operations in under_v1.items():
        for method in operations:
            answer = stranger.request(method, path)
            assert_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "header", ["Bearer wrong-key", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer ", "Bearer é"]
)
def test_any_other_key_is_refused(stranger: TestClient, header: str) -> None:
    answer = stranger.get("/v1/files", headers={b"Authorization": header.encode()})
    assert_problem(answer, 401, "unauthorized")
    assert KEY not in answer.text


def test_the_key_lets_in(stranger: TestClient) -> None:
    assert stranger.get("/v1/files", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert stranger.get("/v1/files", headers={"Authorization": f"bearer {KEY}"}).status_code == 200


def test_a_body_is_not_even_read_without_the_key(stranger: TestClient) -> None:
    json = {"Content-Type": "application/json"}
    assert_problem(stranger.post("/v1/fine_tuning/jobs", content=b"{broken", headers=json), 401, "unauthorized")
    assert_problem(stranger.post("/v1/files", content=b"no form"), 401, "unauthorized")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs"])
def test_health_and_description_are_open(stranger: TestClient, path: str) -> None:
    assert stranger.get(path).status_code == 200
