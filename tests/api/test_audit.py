"""Whatever changes something leaves one row that says who, what and to what, and it outlives its object."""

from typing import Any

import pytest
from bitsmith_core.db import Database
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import Platform, assert_problem
from tests.api.keyring import BOOTSTRAP, as_key, new_key, new_project


def events(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/v1/audit_events", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def actions(client: TestClient, **query: Any) -> list[tuple[str, str]]:
    return [(event["action"], event["target"]) for event in events(client, **query)]


def test_each_change_is_recorded_newest_first(client: TestClient, platform: Platform) -> None:
    request = platform.request()
    job = client.post("/v1/fine_tuning/jobs", json=request).json()["id"]
    client.post(f"/v1/fine_tuning/jobs/{job}/cancel")
    client.delete(f"/v1/files/{request['training_file']}")
    assert actions(client) == [
        ("file.deleted", request["training_file"]),
        ("job.cancelled", job),
        ("job.created", job),
        ("file.created", request["validation_file"]),
        ("file.created", request["training_file"]),
    ]


def test_a_row_says_who_from_where_and_in_which_request(client: TestClient) -> None:
    admin = new_key(client, role="admin")
    made = client.post(
        "/v1/api_keys", json={"name": "x"}, headers=as_key(admin["key"]) | {"X-Request-Id": "request-7"}
    ).json()
    newest = events(client)[0]
    assert (newest["actor"], newest["action"], newest["target"]) == (admin["id"], "api_key.created", made["id"])
    assert (newest["request_id"], newest["address"]) == ("request-7", "testclient")
    assert events(client)[1]["actor"] == "bootstrap"


def test_nothing_secret_is_in_a_row(client: TestClient, database: Database) -> None:
    made = new_key(client)
    with database.transaction() as tx:
        rows = tx.execute(text("SELECT * FROM audit_events")).all()
    assert rows
    assert made["key"].rpartition("_")[2] not in str(rows)


def test_what_was_refused_changed_nothing_and_leaves_no_row(client: TestClient) -> None:
    client.post("/v1/fine_tuning/jobs", json={"model": "hf:org/tiny"})
    client.post("/v1/files", content=b"no form")
    client.delete("/v1/api_keys/key-" + "0" * 26)
    client.post("/v1/projects", json={"name": "default"})
    viewer = as_key(new_key(client, role="viewer")["key"])
    client.post("/v1/api_keys", json={"name": "x"}, headers=viewer)
    assert [action for action, _ in actions(client)] == ["api_key.created"]


def test_reading_leaves_no_row(client: TestClient, platform: Platform) -> None:
    job = platform.submit()
    before = actions(client)
    for address in ("/v1/files", "/v1/fine_tuning/jobs", f"/v1/fine_tuning/jobs/{job}", "/v1/models", "/v1/api_keys"):
        assert client.get(address).status_code == 200
    assert actions(client) == before


def test_a_dry_run_and_a_repeated_answer_are_no_change(client: TestClient, platform: Platform) -> None:
    request = platform.request()
    before = len(events(client))
    assert client.post("/v1/fine_tuning/jobs", json=request, params={"dry_run": True}).status_code == 200
    assert len(events(client)) == before
    for _ in range(2):
        client.post("/v1/fine_tuning/jobs", json=request, headers={"Idempotency-Key": "k"})
    assert len(events(client)) == before + 1


def test_a_dry_run_that_the_route_does_not_know_hides_nothing(client: TestClient, platform: Platform) -> None:
    file_id = platform.upload()
    assert client.delete(f"/v1/files/{file_id}", params={"dry_run": True}).status_code == 200
    assert actions(client)[0] == ("file.deleted", file_id)


def test_a_change_that_is_not_committed_leaves_no_row(
    client: TestClient, platform: Platform, database: Database
) -> None:
    """Row and change are one transaction: without the one there is not the other."""
    file_id = platform.upload()
    with database.transaction() as tx:
        tx.execute(text("ALTER TABLE audit_events ADD CONSTRAINT refuse CHECK (action <> 'file.deleted')"))
    try:
        assert client.delete(f"/v1/files/{file_id}").status_code == 500
        assert client.get(f"/v1/files/{file_id}").status_code == 200
    finally:
        with database.transaction() as tx:
            tx.execute(text("ALTER TABLE audit_events DROP CONSTRAINT refuse"))
    assert actions(client) == [("file.created", file_id)]


def test_filters_narrow_each_other_down(client: TestClient, platform: Platform) -> None:
    admin = new_key(client, role="admin")
    file_id = platform.upload()
    client.delete(f"/v1/files/{file_id}", headers=as_key(admin["key"]))
    created, deleted = ("file.created", file_id), ("file.deleted", file_id)
    assert actions(client, target=file_id) == [deleted, created]
    assert actions(client, actor=admin["id"]) == [deleted]
    assert actions(client, actor="bootstrap", target=file_id) == [created]
    assert actions(client, action="file.deleted") == [deleted]
    assert actions(client, action="file.deleted", actor="bootstrap") == []
    assert actions(client, action="a\0b") == []


def test_times_narrow_down(client: TestClient, platform: Platform, database: Database) -> None:
    for _ in range(3):
        platform.upload()
    with database.transaction() as tx:
        tx.execute(text("UPDATE audit_events SET created_at = to_timestamp(1000 + id)"))
        ids = list(tx.scalars(text("SELECT id FROM audit_events ORDER BY id")))
    assert [e["id"] for e in events(client, **{"created_at[gte]": 1000 + ids[1]})] == [
        f"audit-{ids[2]}",
        f"audit-{ids[1]}",
    ]
    assert [e["id"] for e in events(client, **{"created_at[lte]": 1000 + ids[0]})] == [f"audit-{ids[0]}"]


def test_pages_hold_every_row_once(client: TestClient, platform: Platform) -> None:
    for _ in range(3):
        platform.upload()
    first = client.get("/v1/audit_events", params={"limit": 2}).json()
    rest = client.get("/v1/audit_events", params={"limit": 2, "after": first["last_id"]}).json()
    assert [row["id"] for row in first["data"] + rest["data"]] == [row["id"] for row in events(client)]
    assert (first["has_more"], rest["has_more"]) == (True, False)


@pytest.mark.parametrize("after", ["audit-0", "audit-x", "7", "audit-99999999999999999999"])
def test_a_cursor_that_no_page_gave_is_refused(client: TestClient, after: str) -> None:
    assert_problem(client.get("/v1/audit_events", params={"after": after}), 422, "invalid_request", "query after")


def test_each_project_has_its_own_trail(client: TestClient) -> None:
    blue = new_project(client, "blue")
    key = new_key(client, role="admin", project=blue)
    of_blue = client.get("/v1/audit_events", headers=as_key(key["key"])).json()["data"]
    assert [(event["action"], event["target"]) for event in of_blue] == [
        ("api_key.created", key["id"]),
        ("project.created", blue),
    ]
    assert client.get("/v1/audit_events", headers=BOOTSTRAP).json()["data"] == []
