"""Projects are made by whoever runs the installation, and seen by those in them."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import Platform, assert_problem
from tests.api.keyring import BOOTSTRAP, as_key, in_project, new_key, new_project

NO_LIMITS = {"requests_per_minute": None, "open_jobs": None, "running_jobs": None, "storage_bytes": None}


def test_a_project_has_a_name_limits_and_a_share(client: TestClient) -> None:
    answer = client.post("/v1/projects", json={"name": " blue ", "limits": {"open_jobs": 5}, "weight": 2})
    assert answer.status_code == 200, answer.text
    project = answer.json()
    assert project["id"].startswith("proj-")
    assert (project["object"], project["name"], project["status"]) == ("project", "blue", "active")
    assert (project["limits"], project["weight"]) == ({**NO_LIMITS, "open_jobs": 5}, 2)
    assert client.get(f"/v1/projects/{project['id']}").json() == project


def test_the_default_project_is_there_from_the_start(client: TestClient) -> None:
    assert [row["id"] for row in client.get("/v1/projects").json()["data"]] == ["proj-default"]


def test_changing_leaves_alone_what_is_not_named_and_replaces_limits_as_a_whole(client: TestClient) -> None:
    blue = new_project(client, "blue", limits={"open_jobs": 5, "storage_bytes": 9})
    address = f"/v1/projects/{blue}"
    assert client.patch(address, json={"name": "azure"}).json()["limits"]["open_jobs"] == 5
    changed = client.patch(address, json={"limits": {"running_jobs": 1}}).json()
    assert (changed["name"], changed["limits"]) == ("azure", {**NO_LIMITS, "running_jobs": 1})
    assert client.patch(address, json={}).json() == changed


def test_a_name_is_taken_once(client: TestClient) -> None:
    blue = new_project(client, "blue")
    assert_problem(client.post("/v1/projects", json={"name": "blue"}), 409, "conflict")
    assert_problem(client.patch(f"/v1/projects/{blue}", json={"name": "default"}), 409, "conflict")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/name"),
        ({"name": "a", "weight": 0}, "/weight"),
        ({"name": "a", "limits": {"open_jobs": -1}}, "/limits/open_jobs"),
        ({"name": "a", "limits": {"requests_per_minute": 0}}, "/limits/requests_per_minute"),
        ({"name": "a", "limits": {"colour": 1}}, "/limits/colour"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(client: TestClient, body: dict[str, Any], pointer: str) -> None:
    assert_problem(client.post("/v1/projects", json=body), 422, "invalid_request", pointer)


def test_a_projects_key_sees_its_own_project_and_changes_none(client: TestClient) -> None:
    blue = new_project(client, "blue")
    admin = as_key(new_key(client, role="admin", project=blue)["key"])
    assert [row["id"] for row in client.get("/v1/projects", headers=admin).json()["data"]] == [blue]
    assert client.get(f"/v1/projects/{blue}", headers=admin).status_code == 200
    assert_problem(client.get("/v1/projects/proj-default", headers=admin), 404, "not_found")
    assert_problem(client.patch(f"/v1/projects/{blue}", json={"weight": 9}, headers=admin), 403, "forbidden")
    assert_problem(client.post("/v1/projects", json={"name": "green"}, headers=admin), 403, "forbidden")


def test_projects_are_listed_newest_first_in_pages(client: TestClient) -> None:
    blue, green = new_project(client, "blue"), new_project(client, "green")
    first = client.get("/v1/projects", params={"limit": 2}).json()
    rest = client.get("/v1/projects", params={"limit": 2, "after": first["last_id"]}).json()
    assert {row["id"] for row in first["data"] + rest["data"]} == {blue, green, "proj-default"}
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_an_archived_project_lets_nobody_in_until_it_is_restored(client: TestClient) -> None:
    blue = new_project(client, "blue")
    headers = as_key(new_key(client, project=blue)["key"])
    assert client.post(f"/v1/projects/{blue}/archive").json()["status"] == "archived"
    assert "archived" in assert_problem(client.get("/v1/files", headers=headers), 403, "forbidden")["detail"]
    assert client.post(f"/v1/projects/{blue}/restore").json()["status"] == "active"
    assert client.get("/v1/files", headers=headers).status_code == 200


def test_a_project_at_work_is_not_archived(client: TestClient, platform: Platform) -> None:
    assert_problem(client.post("/v1/projects/proj-default/archive"), 409, "conflict")
    blue = new_project(client, "blue")
    client.headers.update(in_project(blue))
    job = platform.submit()
    assert_problem(client.post(f"/v1/projects/{blue}/archive"), 409, "conflict")
    client.post(f"/v1/fine_tuning/jobs/{job}/cancel")
    assert client.post(f"/v1/projects/{blue}/archive").status_code == 200


@pytest.mark.parametrize("project", ["proj-" + "0" * 26, "nonsense", "proj-%00"])
def test_there_is_no_project_that_nobody_made(client: TestClient, project: str) -> None:
    assert_problem(client.get(f"/v1/projects/{project}"), 404, "not_found")
    assert_problem(client.patch(f"/v1/projects/{project}", json={}, headers=BOOTSTRAP), 404, "not_found")
