"""Projects and keys for tests, made as their users make them: with the bootstrap key, over HTTP."""

from collections.abc import Iterator
from typing import Any

from bitsmith_api.deps.caller import Require
from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.testclient import TestClient

from tests.api.conftest import KEY

BOOTSTRAP = {"Authorization": f"Bearer {KEY}", "X-Bitsmith-Project": "proj-default"}


def as_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def in_project(project: str) -> dict[str, str]:
    return {"X-Bitsmith-Project": project}


def new_project(client: TestClient, name: str, **body: Any) -> str:
    answer = client.post("/v1/projects", json={"name": name, **body}, headers=BOOTSTRAP)
    assert answer.status_code == 200, answer.text
    project: str = answer.json()["id"]
    return project


def new_key(
    client: TestClient, *, name: str = "a key", role: str = "member", project: str = "proj-default", **body: Any
) -> dict[str, Any]:
    """The answer, with the key itself."""
    sent = {"name": name, "role": role, **body}
    answer = client.post("/v1/api_keys", json=sent, headers=BOOTSTRAP | in_project(project))
    assert answer.status_code == 200, answer.text
    issued: dict[str, Any] = answer.json()
    return issued


def routes_under_v1(app: FastAPI) -> Iterator[tuple[str, str, RouteContext]]:
    """Every method, path and route there is, so that no test can forget a new one.

    But for the session: it is the door itself, where a key is shown; tests/api/test_session.py is about it.
    """
    for route in iter_route_contexts(app.routes):
        path, methods = route.path or "", route.methods or set()
        if path.startswith("/v1") and path != "/v1/session":
            yield from ((method, path, route) for method in sorted(methods - {"HEAD"}))


def scopes_of(route: RouteContext) -> list[str]:
    """What the route asks of a key, wherever in its dependencies it does."""

    def walk(dependant: Any) -> Iterator[str]:
        if isinstance(dependant.call, Require):
            yield dependant.call.scope
        for inner in dependant.dependencies:
            yield from walk(inner)

    return list(walk(route.dependant))
