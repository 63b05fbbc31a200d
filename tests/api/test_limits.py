"""Nobody gets more than their share: of requests, of open jobs, of storage. A refusal says when or how to go on."""

from collections.abc import Callable, Iterator

import pytest
from bitsmith_api.app import create_app
from bitsmith_api.deps.rates import Rates
from bitsmith_api.settings import ApiSettings
from bitsmith_client.lab import servers
from bitsmith_core.db import Database
from bitsmith_core.settings import QueueSettings
from bitsmith_core.storage import S3Store
from fastapi.testclient import TestClient
from pydantic import SecretStr

from tests.api.conftest import AUTHORIZED, EXAMPLE, KEY, Platform, assert_problem
from tests.api.keyring import as_key, in_project, new_key, new_project

Limited = Callable[..., TestClient]


@pytest.fixture
def limited(database: Database, store: S3Store) -> Iterator[Limited]:
    """The API with limits of its own."""
    clients: list[TestClient] = []

    def start(**limits: int) -> TestClient:
        settings = ApiSettings(key=SecretStr(KEY), **limits)  # type: ignore[arg-type]  # limits are numbers
        client = TestClient(create_app(settings=settings, database=database, store=store), headers=AUTHORIZED)
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__()


def test_too_many_requests_are_refused_until_there_is_room_again(limited: Limited) -> None:
    client = limited(requests_per_minute=3)
    remaining = [int(client.get("/v1/files").headers["x-ratelimit-remaining-requests"]) for _ in range(3)]
    assert remaining == [2, 1, 0]
    answer = client.get("/v1/files")
    document = assert_problem(answer, 429, "rate_limit_exceeded")
    assert document["retryable"]
    assert document["error"]["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers["ratelimit-policy"] == '"key";q=3;w=60'
    assert answer.headers["ratelimit"] == f'"key";r=0;t={answer.headers["retry-after"]}'


def test_one_key_does_not_use_up_anothers(limited: Limited) -> None:
    client = limited(requests_per_minute=3)
    one, other = (as_key(new_key(client)["key"]) for _ in range(2))
    statuses = [client.get("/v1/files", headers=headers).status_code for headers in [one] * 4 + [other]]
    assert statuses == [200, 200, 200, 429, 200]


def test_a_projects_own_rate_wins(limited: Limited) -> None:
    client = limited(requests_per_minute=1000)
    slow = new_project(client, "slow", limits={"requests_per_minute": 1})
    headers = as_key(new_key(client, project=slow)["key"])
    assert [client.get("/v1/files", headers=headers).status_code for _ in range(2)] == [200, 429]


def test_health_is_not_limited(limited: Limited) -> None:
    client = limited(requests_per_minute=1)
    assert [client.get("/livez").status_code for _ in range(3)] == [200] * 3


def test_refused_strangers_use_up_nobodys_requests(limited: Limited) -> None:
    client = limited(requests_per_minute=1)
    for _ in range(3):
        assert client.get("/v1/files", headers=as_key("wrong")).status_code == 401
    assert client.get("/v1/files").status_code == 200


def test_processes_count_together_in_redis(queue_settings: QueueSettings) -> None:
    one, other = Rates(queue_settings.url), Rates(queue_settings.url)
    within = [rates.count("key-together", limit=3).is_within for rates in (one, other, one, other)]
    assert within == [True, True, True, False]


def test_without_redis_each_process_counts_and_nobody_is_turned_away() -> None:
    away = Rates(SecretStr(f"redis://:secret@127.0.0.1:{servers.free_port()}/0"))
    assert [away.count("key", limit=2).is_within for _ in range(3)] == [True, True, False]


def test_a_project_has_as_many_open_jobs_as_it_may(limited: Limited, database: Database) -> None:
    client = limited(max_open_jobs=1)
    platform = Platform(client=client, database=database)
    request = platform.request()
    first = client.post("/v1/fine_tuning/jobs", json=request, headers={"Idempotency-Key": "first"})
    assert first.status_code == 200
    again = client.post("/v1/fine_tuning/jobs", json=request, headers={"Idempotency-Key": "first"})
    assert again.json()["id"] == first.json()["id"], "what was answered before needs no room"

    refused = client.post("/v1/fine_tuning/jobs", json=request)
    assert_problem(refused, 429, "quota_exceeded")
    assert refused.headers["x-should-retry"] == "false"
    clone = client.post(f"/v1/fine_tuning/jobs/{first.json()['id']}/clone")
    assert_problem(clone, 429, "quota_exceeded")
    assert client.post("/v1/fine_tuning/jobs", json=request, params={"dry_run": True}).status_code == 200

    client.post(f"/v1/fine_tuning/jobs/{first.json()['id']}/cancel")
    assert client.post("/v1/fine_tuning/jobs", json=request).status_code == 200


def test_a_project_stores_as_much_as_it_may(limited: Limited, database: Database) -> None:
    client = limited(max_storage_bytes=100)
    platform = Platform(client=client, database=database)
    file_id = platform.upload()  # 40 bytes
    platform.upload(filename="b.jsonl")
    sent = client.post(
        "/v1/files", files={"file": ("c.jsonl", EXAMPLE.replace(b"4", b"5"))}, data={"purpose": "fine-tune"}
    )
    assert_problem(sent, 429, "quota_exceeded")
    upload = {"filename": "d.jsonl", "purpose": "fine-tune", "bytes": 21, "mime_type": "application/jsonl"}
    assert_problem(client.post("/v1/uploads", json=upload), 429, "quota_exceeded")
    assert client.delete(f"/v1/files/{file_id}").status_code == 200
    assert client.post("/v1/uploads", json=upload).status_code == 200


def test_a_projects_own_quota_wins(client: TestClient, platform: Platform) -> None:
    blue = new_project(client, "blue", limits={"open_jobs": 0, "storage_bytes": 200})
    client.headers.update(in_project(blue))
    request = platform.request()
    assert_problem(client.post("/v1/fine_tuning/jobs", json=request), 429, "quota_exceeded")
    assert client.patch(f"/v1/projects/{blue}", json={"limits": {}}).status_code == 200
    assert client.post("/v1/fine_tuning/jobs", json=request).status_code == 200
