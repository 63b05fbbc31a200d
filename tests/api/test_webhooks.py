"""What people do with webhooks: make, try, watch, replay and end them, each in their own project."""

from typing import Any

import pytest
from bitsmith_core import delivery
from bitsmith_core.db import Database
from bitsmith_core.delivery import EventType
from bitsmith_core.identity import keys, projects
from bitsmith_core.identity.roles import Role
from bitsmith_core.ids import DEFAULT_PROJECT, ProjectId
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import Platform, assert_problem

URL = "https://hooks.example.org/bitsmith"


def key(database: Database, *, project: ProjectId = DEFAULT_PROJECT, role: Role = Role.MEMBER) -> str:
    with database.transaction() as tx:
        return keys.issue(tx, project=project, name="test", role=role, created_by=None).key


@pytest.fixture
def stranger(app: FastAPI, client: TestClient, database: Database) -> TestClient:
    """Somebody of another project."""
    with database.transaction() as tx:
        project = projects.create(tx, name="other").id
    return TestClient(app, headers={"Authorization": f"Bearer {key(database, project=project)}"})


def make(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/webhooks", json={"url": URL, **body})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def emit(database: Database, target: str) -> None:
    with database.transaction() as tx:
        delivery.emit(tx, project=DEFAULT_PROJECT, type=EventType.JOB_SUCCEEDED, target=target)


def test_the_secret_is_shown_once(client: TestClient) -> None:
    made = make(client, events=["fine_tuning.job.failed"])
    assert made["secret"].startswith("whsec_")
    assert made["url"] == URL
    assert made["events"] == ["fine_tuning.job.failed"]
    assert made["enabled"] is True
    shown = client.get(f"/v1/webhooks/{made['id']}").json()
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert "whsec_" not in client.get("/v1/webhooks").text
    assert "whsec_" not in client.patch(f"/v1/webhooks/{made['id']}", json={"enabled": True}).text


def test_a_secret_is_not_repeated_under_an_idempotency_key(client: TestClient, database: Database) -> None:
    headers = {"Idempotency-Key": "hook-1"}
    first = client.post("/v1/webhooks", json={"url": URL}, headers=headers).json()
    again = client.post("/v1/webhooks", json={"url": URL}, headers=headers)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == {**first, "secret": None}
    with database.transaction() as tx:
        assert tx.scalar(text("SELECT count(*) FROM webhooks")) == 1
        assert not tx.scalar(text("SELECT count(*) FROM idempotency_keys WHERE answer::text LIKE '%whsec%'"))


def test_a_replaced_secret_is_shown_once(client: TestClient) -> None:
    made = make(client)
    replaced = client.post(f"/v1/webhooks/{made['id']}/rotate_secret").json()
    assert replaced["secret"].startswith("whsec_")
    assert replaced["secret"] != made["secret"]


@pytest.mark.parametrize(
    "url", ["http://hooks.example.org/", "https://127.0.0.1/", "https://169.254.169.254/", "https://[::1]/", "nonsense"]
)
def test_an_address_inside_is_refused_by_name(client: TestClient, url: str) -> None:
    assert_problem(client.post("/v1/webhooks", json={"url": url}), 422, "invalid", "/url")
    made = make(client)
    assert_problem(client.patch(f"/v1/webhooks/{made['id']}", json={"url": url}), 422, "invalid", "/url")


def test_an_event_that_does_not_exist_is_refused_by_name(client: TestClient) -> None:
    answer = client.post("/v1/webhooks", json={"url": URL, "events": ["fine_tuning.job.succeeded", "job.exploded"]})
    assert_problem(answer, 422, "invalid_request", "/events/1")
    assert_problem(client.post("/v1/webhooks", json={"url": URL, "event": []}), 422, "invalid_request", "/event")


def test_what_a_job_does_is_on_its_way_with_the_job_s_own_transaction(platform: Platform) -> None:
    made = make(platform.client)
    job_id = platform.publish("name-qsft")
    listed = platform.client.get(f"/v1/webhooks/{made['id']}/deliveries").json()
    assert sorted((each["type"], each["payload"]["data"]["id"]) for each in listed["data"]) == [
        ("fine_tuning.job.succeeded", job_id),
        ("model.version.published", "name-qsft@1"),
    ]
    (first, _) = listed["data"]
    assert (first["status"], first["attempts"], first["response_status"]) == ("pending", 0, None)
    one = platform.client.get(f"/v1/webhooks/{made['id']}/deliveries/{first['id']}")
    assert one.json() == first


def test_deliveries_are_listed_newest_first_in_pages_and_by_status(client: TestClient, database: Database) -> None:
    made = make(client)
    for number in range(5):
        emit(database, f"ftjob-{number}")
    with database.transaction() as tx:
        tx.execute(text("UPDATE webhook_deliveries SET status = 'failed' WHERE payload->'data'->>'id' = 'ftjob-3'"))
    address = f"/v1/webhooks/{made['id']}/deliveries"
    first = client.get(address, params={"limit": 3}).json()
    assert [each["payload"]["data"]["id"] for each in first["data"]] == ["ftjob-4", "ftjob-3", "ftjob-2"]
    assert first["has_more"]
    rest = client.get(address, params={"limit": 3, "after": first["last_id"]}).json()
    assert [each["payload"]["data"]["id"] for each in rest["data"]] == ["ftjob-1", "ftjob-0"]
    assert not rest["has_more"]
    (failed,) = client.get(address, params={"status": "failed"}).json()["data"]
    assert failed["payload"]["data"]["id"] == "ftjob-3"
    assert failed["next_attempt_at"] is None


def test_a_ping_and_a_replay_are_due_at_once(client: TestClient, database: Database) -> None:
    made = make(client, events=["fine_tuning.job.failed"])
    ping = client.post(f"/v1/webhooks/{made['id']}/ping").json()
    assert (ping["type"], ping["payload"]["data"]["id"], ping["status"]) == ("webhook.ping", made["id"], "pending")
    with database.transaction() as tx:
        tx.execute(text("UPDATE webhook_deliveries SET status = 'failed', attempts = 10, error = 'no answer'"))
    replayed = client.post(f"/v1/webhooks/{made['id']}/deliveries/{ping['id']}/replay").json()
    assert (replayed["id"], replayed["status"], replayed["attempts"]) == (ping["id"], "pending", 0)
    assert replayed["payload"] == ping["payload"]


def test_a_disabled_webhook_takes_neither_ping_nor_replay(client: TestClient) -> None:
    made = make(client)
    ping = client.post(f"/v1/webhooks/{made['id']}/ping").json()
    disabled = client.patch(f"/v1/webhooks/{made['id']}", json={"enabled": False}).json()
    assert disabled["enabled"] is False
    assert_problem(client.post(f"/v1/webhooks/{made['id']}/ping"), 409, "conflict")
    answer = client.post(f"/v1/webhooks/{made['id']}/deliveries/{ping['id']}/replay")
    assert "enable it" in assert_problem(answer, 409, "conflict")["detail"]


def test_a_deleted_webhook_is_gone_with_its_deliveries(client: TestClient, database: Database) -> None:
    made = make(client)
    emit(database, "ftjob-1")
    assert client.delete(f"/v1/webhooks/{made['id']}").json()["deleted"] is True
    assert_problem(client.get(f"/v1/webhooks/{made['id']}"), 404, "not_found")
    with database.transaction() as tx:
        assert tx.scalar(text("SELECT count(*) FROM webhook_deliveries")) == 0


def test_another_project_s_webhooks_do_not_exist(client: TestClient, stranger: TestClient) -> None:
    made, theirs = make(client), make(stranger)
    ping = client.post(f"/v1/webhooks/{made['id']}/ping").json()
    address = f"/v1/webhooks/{made['id']}"
    for answer in (
        stranger.get(address),
        stranger.patch(address, json={"enabled": False}),
        stranger.delete(address),
        stranger.post(f"{address}/ping"),
        stranger.post(f"{address}/rotate_secret"),
        stranger.get(f"{address}/deliveries"),
        stranger.get(f"{address}/deliveries/{ping['id']}"),
        stranger.post(f"{address}/deliveries/{ping['id']}/replay"),
        stranger.get(f"/v1/webhooks/{theirs['id']}/deliveries/{ping['id']}"),
    ):
        assert_problem(answer, 404, "not_found")
    assert [each["id"] for each in stranger.get("/v1/webhooks").json()["data"]] == [theirs["id"]]
    assert client.get(address).json()["enabled"] is True


def test_a_viewer_neither_sees_nor_makes_webhooks(app: FastAPI, client: TestClient, database: Database) -> None:
    viewer = TestClient(app, headers={"Authorization": f"Bearer {key(database, role=Role.VIEWER)}"})
    assert_problem(viewer.get("/v1/webhooks"), 403, "forbidden")
    assert_problem(viewer.post("/v1/webhooks", json={"url": URL}), 403, "forbidden")


def test_changes_are_in_the_audit_trail(client: TestClient) -> None:
    made = make(client)
    client.post(f"/v1/webhooks/{made['id']}/rotate_secret")
    client.delete(f"/v1/webhooks/{made['id']}")
    answer = client.get("/v1/audit_events", params={"target": made["id"]})
    assert answer.status_code == 200, answer.text
    trail = answer.json()["data"]
    assert [event["action"] for event in trail] == [
        "webhook.deleted", "webhook_secret.rotated", "webhook.created",
    ]  # fmt: skip
    assert "whsec_" not in str(trail)
