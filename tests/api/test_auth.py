"""Everything under /v1 asks for a key, before it reads or says anything else, and lets nobody do more than they may."""

from collections.abc import Iterator

import pytest
from bitsmith_api.deps.audit import Audited, action_of
from bitsmith_core.db import Database
from bitsmith_core.identity.roles import RESOURCES, SCOPES, Role
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import KEY, assert_problem
from tests.api.keyring import BOOTSTRAP, as_key, in_project, new_key, new_project, routes_under_v1, scopes_of

EMPTY_HANDED = {"/v1/models/best": 404, "/v1/evals/compare": 422}
"""What those hear who are let in and ask for nothing in particular, in an empty installation."""

WRITES = {"POST", "PUT", "PATCH", "DELETE"}


@pytest.fixture
def stranger(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as stranger:
        yield stranger


def test_every_route_says_which_scope_it_needs(app: FastAPI) -> None:
    found = {(method, path): scopes_of(route) for method, path, route in routes_under_v1(app)}
    assert len(found) >= 20
    for address, scopes in found.items():
        assert len(scopes) == 1, f"{address} needs dependencies=[require('<resource>:read|write')], once"
    reading = {address for address, (scope,) in found.items() if scope.endswith(":read")}
    assert {method for method, _ in reading} <= {"GET", "POST"}, "what is not GET changes something"
    assert all(scope.endswith(":read") for (method, _), (scope,) in found.items() if method == "GET")


def test_every_route_that_changes_something_leaves_a_trail(app: FastAPI) -> None:
    for method, path, route in routes_under_v1(app):
        if method in WRITES and scopes_of(route) != ["chat:write"]:
            assert isinstance(route.original_route, Audited), f"{method} {path} needs route_class=Audited"
            assert isinstance(route.original_route, APIRoute)
            thing, _, past = action_of(route.original_route.name).partition(".")
            assert thing, f"name {method} {path} as verb_thing, which the trail makes {thing}.{past}"
            assert past.endswith(("ed", "put", "set"))


def test_every_address_under_v1_asks_for_the_key(app: FastAPI, stranger: TestClient) -> None:
    asked = 0
    for method, path, _ in routes_under_v1(app):
        answer = stranger.request(method, path)
        assert_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["error"]["type"] == "authentication_error"
        asked += 1
    assert asked >= 20


@pytest.mark.parametrize("role", Role)
def test_no_role_may_what_its_scopes_do_not_say(app: FastAPI, stranger: TestClient, role: Role) -> None:
    """Every route, with a key of each role: refused with 403 exactly where the role lacks the route's scope."""
    headers = as_key(new_key(stranger, role=role)["key"])
    for method, path, route in routes_under_v1(app):
        (scope,) = scopes_of(route)
        answer = stranger.request(method, path, headers=headers)
        assert (answer.status_code == 403) == (scope not in SCOPES[role]), (method, path, answer.text)
        if answer.status_code == 403:
            assert_problem(answer, 403, "forbidden")
            assert scope in answer.json()["detail"]


@pytest.mark.parametrize("resource", ["files", "jobs", "models", "keys"])
def test_a_key_with_one_scope_may_that_and_nothing_else(app: FastAPI, stranger: TestClient, resource: str) -> None:
    headers = as_key(new_key(stranger, role="admin", scopes=[f"{resource}:read"])["key"])
    for method, path, route in routes_under_v1(app):
        if "{" not in path and method == "GET":
            answer = stranger.get(path, headers=headers)
            let_in = EMPTY_HANDED.get(path, 200)
            assert answer.status_code == (let_in if scopes_of(route) == [f"{resource}:read"] else 403), path


@pytest.mark.parametrize(
    "header", ["Bearer wrong-key", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer ", "Bearer é"]
)
def test_any_other_key_is_refused(stranger: TestClient, header: str) -> None:
    answer = stranger.get("/v1/files", headers={b"Authorization": header.encode()})
    assert_problem(answer, 401, "unauthorized")
    assert KEY not in answer.text


def test_the_bootstrap_key_lets_in(stranger: TestClient) -> None:
    assert stranger.get("/v1/files", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert stranger.get("/v1/files", headers={"Authorization": f"bearer {KEY}"}).status_code == 200


def test_a_projects_key_lets_in(stranger: TestClient) -> None:
    headers = as_key(new_key(stranger, role="viewer")["key"])
    assert stranger.get("/v1/files", headers=headers).status_code == 200


def test_a_revoked_key_is_refused_from_the_next_request_on(stranger: TestClient) -> None:
    made = new_key(stranger)
    headers = as_key(made["key"])
    assert stranger.get("/v1/files", headers=headers).status_code == 200
    assert stranger.delete(f"/v1/api_keys/{made['id']}", headers=BOOTSTRAP).status_code == 200
    assert "revoked" in assert_problem(stranger.get("/v1/files", headers=headers), 401, "unauthorized")["detail"]


def test_an_expired_key_is_refused(stranger: TestClient, database: Database) -> None:
    made = new_key(stranger)
    with database.transaction() as tx:
        tx.execute(text("UPDATE api_keys SET expires_at = now() WHERE id = :id"), {"id": made["id"]})
    answer = stranger.get("/v1/files", headers=as_key(made["key"]))
    assert "expired" in assert_problem(answer, 401, "unauthorized")["detail"]


def test_the_bootstrap_key_acts_in_the_project_it_names(stranger: TestClient) -> None:
    blue = new_project(stranger, "blue")
    new_key(stranger, name="of blue", project=blue)
    assert stranger.get("/v1/api_keys", headers=BOOTSTRAP).json()["data"] == []
    names = [row["name"] for row in stranger.get("/v1/api_keys", headers=BOOTSTRAP | in_project(blue)).json()["data"]]
    assert names == ["of blue"]


def test_nobody_acts_in_a_project_that_is_not_there(stranger: TestClient) -> None:
    assert_problem(stranger.get("/v1/files", headers=BOOTSTRAP | in_project("proj-nowhere")), 403, "forbidden")


def test_a_projects_key_acts_in_its_project_only(stranger: TestClient) -> None:
    blue = new_project(stranger, "blue")
    headers = as_key(new_key(stranger, role="admin")["key"])
    assert_problem(stranger.get("/v1/files", headers=headers | in_project(blue)), 403, "forbidden")
    assert stranger.get("/v1/files", headers=headers | in_project("proj-default")).status_code == 200


def test_a_body_is_not_even_read_without_the_key(stranger: TestClient) -> None:
    json = {"Content-Type": "application/json"}
    assert_problem(stranger.post("/v1/fine_tuning/jobs", content=b"{broken", headers=json), 401, "unauthorized")
    assert_problem(stranger.post("/v1/files", content=b"no form"), 401, "unauthorized")


def test_a_body_is_not_even_read_without_the_scope(stranger: TestClient) -> None:
    headers = as_key(new_key(stranger, role="viewer")["key"])
    json = headers | {"Content-Type": "application/json"}
    assert_problem(stranger.post("/v1/fine_tuning/jobs", content=b"{broken", headers=json), 403, "forbidden")
    assert_problem(stranger.post("/v1/files", content=b"no form", headers=headers), 403, "forbidden")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs"])
def test_health_and_description_are_open(stranger: TestClient, path: str) -> None:
    assert stranger.get(path).status_code == 200


def test_every_scope_is_one_of_a_known_resource(app: FastAPI) -> None:
    used = {scope.partition(":")[0] for _, _, route in routes_under_v1(app) for scope in scopes_of(route)}
    assert used <= set(RESOURCES)
