"""A key is shown once, does no more than its maker may, and stops when it is told to."""

import time
from typing import Any

import pytest
from bitsmith_core.db import Database
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import assert_problem
from tests.api.keyring import BOOTSTRAP, as_key, in_project, new_key, new_project

FACTS = {
    "id", "object", "name", "role", "scopes", "created_by", "created_at", "expires_at", "last_used_at", "revoked_at",
}  # fmt: skip


def create(client: TestClient, headers: dict[str, str], **body: Any) -> Any:
    return client.post("/v1/api_keys", json={"name": "new", **body}, headers=headers)


def test_a_key_is_shown_when_it_is_made_and_never_again(client: TestClient) -> None:
    made = new_key(client, name="nightly runs", role="member", scopes=["jobs:write", "jobs:read"])
    assert made.keys() == FACTS | {"key"}
    assert made["key"].startswith("bsk_")
    assert (made["name"], made["role"], made["scopes"]) == ("nightly runs", "member", ["jobs:read", "jobs:write"])

    one = client.get(f"/v1/api_keys/{made['id']}")
    every = client.get("/v1/api_keys")
    revoked = client.delete(f"/v1/api_keys/{made['id']}")
    assert one.json().keys() == every.json()["data"][0].keys() == revoked.json().keys() == FACTS
    secret = made["key"].rpartition("_")[2]
    for answer in (one, every, revoked):
        assert answer.status_code == 200
        assert secret not in answer.text


def test_the_same_idempotency_key_makes_one_key_and_does_not_show_it_again(
    client: TestClient, database: Database
) -> None:
    headers = BOOTSTRAP | {"Idempotency-Key": "once"}
    first, again = create(client, headers), create(client, headers)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == {**first.json(), "key": None}
    with database.transaction() as tx:
        kept = tx.scalar(text("SELECT answer::text FROM idempotency_keys"))
    assert first.json()["key"] not in kept
    assert len(client.get("/v1/api_keys").json()["data"]) == 1


def test_a_key_remembers_who_made_it_and_when_it_was_used(client: TestClient) -> None:
    admin = new_key(client, role="admin")
    made = create(client, as_key(admin["key"])).json()
    assert (admin["created_by"], made["created_by"]) == (None, admin["id"])
    assert client.get(f"/v1/api_keys/{made['id']}").json()["last_used_at"] is None
    client.get("/v1/files", headers=as_key(made["key"]))
    assert abs(client.get(f"/v1/api_keys/{made['id']}").json()["last_used_at"] - time.time()) < 60


def test_a_key_may_expire(client: TestClient) -> None:
    in_an_hour = int(time.time()) + 3600
    assert new_key(client, expires_at=in_an_hour)["expires_at"] == in_an_hour
    too_late = create(client, BOOTSTRAP, expires_at=int(time.time()) - 1)
    assert_problem(too_late, 422, "invalid_request", "/expires_at")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"role": "king"}, "/role"),
        ({"name": ""}, "/name"),
        ({"name": "a\u0000b"}, "/name"),
        ({"name": "x" * 101}, "/name"),
        ({"expires_at": 2**40}, "/expires_at"),
        ({"colour": "red"}, "/colour"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(client: TestClient, body: dict[str, Any], pointer: str) -> None:
    assert_problem(create(client, BOOTSTRAP, **body), 422, "invalid_request", pointer)


def test_scopes_that_the_role_does_not_have_are_refused(client: TestClient) -> None:
    answer = create(client, BOOTSTRAP, role="viewer", scopes=["jobs:read", "jobs:write", "moon:read"])
    assert_problem(answer, 422, "invalid", "/scopes/1", "/scopes/2")


def test_nobody_makes_a_key_that_may_more_than_themselves(client: TestClient) -> None:
    keys_only = as_key(new_key(client, role="admin", scopes=["keys:write", "jobs:read"])["key"])
    assert_problem(create(client, keys_only, role="admin"), 403, "forbidden")
    assert_problem(create(client, keys_only, role="viewer"), 403, "forbidden")
    assert_problem(create(client, keys_only, role="viewer", scopes=["files:read"]), 403, "forbidden")
    assert create(client, keys_only, role="viewer", scopes=["jobs:read"]).status_code == 200
    assert_problem(create(client, as_key(new_key(client, role="member")["key"])), 403, "forbidden")


def test_an_admin_makes_admins_of_its_own_project(client: TestClient) -> None:
    blue = new_project(client, "blue")
    admin = as_key(new_key(client, role="admin", project=blue)["key"])
    made = create(client, admin, role="admin").json()
    assert client.get("/v1/projects", headers=as_key(made["key"])).json()["data"][0]["id"] == blue


def test_revoking_twice_is_fine_and_a_key_may_revoke_itself(client: TestClient) -> None:
    made = new_key(client, role="admin")
    headers = as_key(made["key"])
    first = client.delete(f"/v1/api_keys/{made['id']}", headers=headers)
    again = client.delete(f"/v1/api_keys/{made['id']}")
    assert first.json()["revoked_at"] == again.json()["revoked_at"] is not None
    assert client.get("/v1/api_keys", headers=headers).status_code == 401


def test_keys_are_listed_newest_first_in_pages(client: TestClient) -> None:
    ids = [new_key(client, name=str(number))["id"] for number in range(3)]
    first = client.get("/v1/api_keys", params={"limit": 2}).json()
    assert [row["id"] for row in first["data"]] == [ids[2], ids[1]]
    assert first["has_more"]
    rest = client.get("/v1/api_keys", params={"limit": 2, "after": first["last_id"]}).json()
    assert [row["id"] for row in rest["data"]] == [ids[0]]
    assert not rest["has_more"]
    assert_problem(client.get("/v1/api_keys", params={"after": "file-x"}), 422, "invalid_request", "query after")


@pytest.mark.parametrize("key_id", ["key-" + "0" * 26, "nonsense", "key-%00"])
def test_there_is_no_key_that_nobody_made(client: TestClient, key_id: str) -> None:
    assert_problem(client.get(f"/v1/api_keys/{key_id}"), 404, "not_found")
    assert_problem(client.delete(f"/v1/api_keys/{key_id}", headers=in_project("proj-default")), 404, "not_found")
