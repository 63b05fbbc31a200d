"""One project's things do not exist for another, and secrets stay with those they belong to.

Every route is asked, as the application lists them: one that is added later is asked, too.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import toy_evals
from bitsmith_client.lab.child import Child
from bitsmith_core import registry
from bitsmith_core.db import Database
from bitsmith_core.ids import ProjectId, new_delivery_id, new_webhook_id
from bitsmith_core.storage import S3Store
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import AUTHORIZED, KEY, Platform, assert_problem
from tests.api.keyring import as_key, in_project, new_key, new_project, routes_under_v1, scopes_of
from tests.api.test_judgements import request as judgement

PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")

BODIES: dict[str, dict[str, Any]] = {
    "create_part_urls": {"parts": [{"bytes": 1, "sha256": "0" * 64}]},
    "complete_upload": {"part_ids": []},
    "put_alias": {"version": 1},
}
"""Of routes that look at their body first: something that they understand."""

QUERIES = {"list_items": "?task=piqa"}
"""Of routes that need one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A project with one of everything, and its admin's headers."""

    headers: dict[str, str]
    things: dict[str, str]  # path parameter -> what it may be


@pytest.fixture
def neighbour(app: FastAPI, database: Database, store: S3Store, tmp_path: Path) -> Iterator[Neighbour]:
    answers = toy_evals.evals({"quantized": {"piqa": [True, False]}})
    toy_evals.put(store, answers, tmp_path)
    manifest = toy_evals.manifest(answers, weights="a")
    with TestClient(app, headers=AUTHORIZED) as client:
        blue = new_project(client, "blue")
        issued = new_key(client, role="admin", project=blue)
        client.headers.update(as_key(issued["key"]))
        platform = Platform(client=client, database=database)
        job_id = platform.submit()
        platform.claim(job_id)
        upload = client.post(
            "/v1/uploads",
            json={"filename": "f.jsonl", "purpose": "fine-tune", "bytes": 40, "mime_type": "application/jsonl"},
        )
        assert upload.status_code == 200, upload.text
        with database.transaction() as tx:
            registry.blobs.hold(tx, manifest.files)
            registry.publish(tx, project=ProjectId(blue), name="blues", job_id=job_id, manifest=manifest)
            webhook, delivery = new_webhook_id(), new_delivery_id()
            tx.execute(
                text(
                    "INSERT INTO webhooks (id, project_id, url, events, secret)"
                    " VALUES (:id, :project, 'https://example.org/', '[]', 'whsec_x')"
                ),
                {"id": webhook, "project": blue},
            )
            tx.execute(
                text(
                    "INSERT INTO webhook_deliveries (id, webhook_id, type, payload)"
                    " VALUES (:id, :webhook, 'fine_tuning.job.succeeded', '{}')"
                ),
                {"id": delivery, "webhook": webhook},
            )
        judged = client.post("/v1/judgements", json=judgement())
        assert judged.status_code == 200, judged.text
        alias = client.put("/v1/models/blues/aliases/bluest", json={"version": 1}, headers={"If-None-Match": "*"})
        assert alias.status_code == 200, alias.text
        things = {
            "file_id": platform.upload(),
            "upload_id": upload.json()["id"],
            "job_id": job_id,
            "name": "blues",
            "version": "1",
            "alias": "bluest",
            "eval_id": client.get("/v1/evals").json()["data"][0]["id"],
            "judgement_id": judged.json()["id"],
            "path": manifest.files[0].path,
            "key_id": issued["id"],
            "project_id": blue,
            "webhook_id": webhook,
            "delivery_id": delivery,
            "worker": "gpu-0",  # nobody's
        }
        yield Neighbour(headers=as_key(issued["key"]), things=things)


def filled(path: str, things: dict[str, str]) -> str:
    unknown = set(PARAMETER.findall(path)) - things.keys()
    assert not unknown, f"{path}: add one of the neighbour's to Neighbour.things: {unknown}"
    return PARAMETER.sub(lambda found: things[found[1]], path)


def with_id(app: FastAPI) -> list[tuple[str, str, str, str]]:
    """(method, path, name, scope) of every route with an id in its path."""
    found = [(m, path, str(route.name), scopes_of(route)[0]) for m, path, route in routes_under_v1(app) if "{" in path]
    assert len(found) >= 20
    return found


def ask(client: TestClient, method: str, path: str, name: str) -> Any:
    body = None if method in {"GET", "DELETE"} else BODIES.get(name, {})
    return client.request(method, path, json=body, headers={"If-Match": "*"})  # some changes are refused without


def test_another_projects_ids_are_not_there_on_any_route(
    app: FastAPI, client: TestClient, neighbour: Neighbour
) -> None:
    client.headers.update(as_key(new_key(client, role="admin")["key"]))
    for method, path, name, scope in with_id(app):
        answer = ask(client, method, filled(path, neighbour.things), name)
        if scope in {"projects:write", "workers:write"}:  # nobody's but the installation's, whatever the id
            assert_problem(answer, 403, "forbidden")
        elif name == "create_upload_part":  # takes a form; what it says must not depend on the id
            assert answer.status_code in {404, 415}, answer.text
        else:
            assert answer.status_code == 404, (method, path, answer.text)
            assert answer.json()["code"] == "not_found", (method, path)


def test_what_another_project_has_looks_exactly_like_what_nobody_has(
    app: FastAPI, client: TestClient, neighbour: Neighbour
) -> None:
    """Not even the words of the refusal say whether there is such a thing."""
    client.headers.update(as_key(new_key(client, role="admin")["key"]))
    nothing = {
        name: re.sub(r"-[0-9a-v]{26}$", "-" + "0" * 26, value) if "-" in value else "reds"
        for name, value in neighbour.things.items()
    }
    nothing["version"] = "1"
    for method, path, name, _ in with_id(app):
        theirs = ask(client, method, filled(path, neighbour.things), name)
        nobodys = ask(client, method, filled(path, nothing), name)
        assert (theirs.status_code, _words(theirs, neighbour.things)) == (
            nobodys.status_code,
            _words(nobodys, nothing),
        ), (method, path)


def _words(answer: Any, things: dict[str, str]) -> str:
    words: str = answer.json()["detail"]
    for name, value in things.items():
        words = words.replace(value, name) if name != "version" else words
    return words


def test_the_owner_is_shown_what_others_are_told_is_not_there(
    app: FastAPI, client: TestClient, neighbour: Neighbour
) -> None:
    """So that the ids above are right, and a 404 there means what it says."""
    client.headers.update(neighbour.headers)
    for method, path, name, _ in with_id(app):
        if method == "GET":
            address = filled(path, neighbour.things) + QUERIES.get(name, "")
            answer = client.get(address, follow_redirects=False, headers={"Range": "bytes=0-0"})
            assert answer.status_code < 400, (name, address, answer.text)


def test_no_list_shows_what_another_project_has(app: FastAPI, client: TestClient, neighbour: Neighbour) -> None:
    client.headers.update(as_key(new_key(client, role="admin")["key"]))
    names = {value for name, value in neighbour.things.items() if name != "version"}
    for method, path, _ in routes_under_v1(app):
        if method == "GET" and "{" not in path:
            answer = client.get(path)
            # 404: the best of no models at all
            assert answer.status_code in {200, 422} or path == "/v1/models/best", (path, answer.text)
            assert not any(name in answer.text for name in names), path


def test_another_projects_things_cannot_be_named_in_a_body(
    client: TestClient, platform: Platform, neighbour: Neighbour
) -> None:
    job = {"model": "hf:org/tiny", "training_file": neighbour.things["file_id"], "validation_file": platform.upload()}
    for query in ({}, {"dry_run": "true"}):
        answer = client.post("/v1/fine_tuning/jobs", json=job, params=query)
        assert "there is no file" in answer.text


def test_the_bootstrap_key_sees_a_project_only_when_it_names_it(client: TestClient, neighbour: Neighbour) -> None:
    address = f"/v1/files/{neighbour.things['file_id']}"
    assert_problem(client.get(address), 404, "not_found")
    named = client.get(address, headers=in_project(neighbour.things["project_id"]))
    assert named.json()["id"] == neighbour.things["file_id"]


def test_keys_do_not_get_into_logs_or_answers_wherever_they_are_put(serve: Callable[[], tuple[Child, str]]) -> None:
    """In the header as they should be, and by mistake in a path, a query, a name and a body."""
    child, address = serve()
    with httpx.Client(base_url=address, headers=AUTHORIZED, timeout=60) as client:
        made = client.post("/v1/api_keys", json={"name": "a key"}).json()
        key, secret = made["key"], made["key"].rpartition("_")[2]
        answers = [
            client.get("/v1/files", headers=as_key(key)),
            client.get("/v1/files", headers=as_key(key[:-1])),
            client.get(f"/v1/files/{key}"),
            client.get(f"/{key}"),
            client.get("/v1/files", params={"after": key}),
            client.get("/v1/audit_events", params={"action": key}),
            client.post("/v1/fine_tuning/jobs", json={"model": key, key: key}),
            client.post("/v1/projects", json={"name": "x", "limits": {key: 1}}),
            client.post("/v1/files", files={"file": (f"{key}/x", b"{}")}, data={"purpose": key}),
            client.get("/v1/files", headers=in_project(key)),
        ]
    log = child.log.read_text()
    assert log.count("request.answered") >= len(answers)
    for told in [log, *(answer.text for answer in answers)]:
        assert secret[:32] not in told, told
        assert KEY not in told
    assert made["id"] in log, "the log names who asked"


def test_no_answer_but_the_first_holds_a_secret(app: FastAPI, client: TestClient) -> None:
    made = new_key(client, role="admin")
    secret = made["key"].rpartition("_")[2]
    told = []
    for method, path, route in routes_under_v1(app):
        if scopes_of(route) == ["keys:read"] or scopes_of(route) == ["audit:read"]:
            told.append(client.request(method, filled(path, {"key_id": made["id"]})).text)
    told.append(client.delete(f"/v1/api_keys/{made['id']}").text)
    assert len(told) >= 4
    assert all(made["id"] in answer and secret not in answer for answer in told)


def test_the_description_shows_the_key_in_one_answer_only(app: FastAPI) -> None:
    description = app.openapi()
    holders = {
        f"{method} {path}"
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
        if "IssuedApiKey" in json.dumps(operation)
    }
    assert holders == {"post /v1/api_keys"}
