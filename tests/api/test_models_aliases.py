"""An alias points at one version; who moves it says what they saw, and every move is remembered."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import Platform, assert_problem

NEW = {"If-None-Match": "*"}


@pytest.fixture
def shelf(platform: Platform) -> Platform:
    """tiny@1, tiny@2, tiny@3."""
    for _ in range(3):
        platform.publish("tiny")
    return platform


def put(client: TestClient, alias: str, version: Any, headers: dict[str, str], **body: Any) -> Any:
    return client.put(f"/v1/models/tiny/aliases/{alias}", json={"version": version, **body}, headers=headers)


def test_an_alias_is_made_read_moved_and_taken_away(shelf: Platform) -> None:
    made = put(shelf.client, "prod", 1, NEW, reason="the first")
    assert made.status_code == 200, made.text
    assert made.json().items() >= {"id": "tiny@prod", "version": 1, "updated_by": "bootstrap"}.items()

    moved = put(shelf.client, "prod", 2, {"If-Match": made.headers["ETag"]}, reason="better")
    assert (moved.json()["version"], moved.headers["ETag"]) == (2, '"2"')
    read = shelf.client.get("/v1/models/tiny/aliases/prod")
    assert (read.json(), read.headers["ETag"]) == (moved.json(), '"2"')
    assert [each["id"] for each in shelf.client.get("/v1/models/tiny/aliases").json()["data"]] == ["tiny@prod"]

    gone = shelf.client.delete("/v1/models/tiny/aliases/prod", headers={"If-Match": '"2"'})
    assert gone.json() == {"id": "tiny@prod", "object": "model.alias", "deleted": True}
    assert_problem(shelf.client.get("/v1/models/tiny/aliases/prod"), 404, "not_found")
    history = shelf.client.get("/v1/models/tiny/aliases/prod/history").json()["data"]
    told = [(each["from_version"], each["to_version"], each["reason"], each["actor"]) for each in history]
    assert told == [
        (2, None, None, "bootstrap"),
        (1, 2, "better", "bootstrap"),
        (None, 1, "the first", "bootstrap"),
    ]


def test_a_model_answers_under_its_alias(shelf: Platform) -> None:
    put(shelf.client, "prod", 2, NEW)
    one = shelf.client.get("/v1/models/tiny@prod").json()
    assert (one["id"], one["latest"]["id"]) == ("tiny@2", "tiny@2")
    assert [version["id"] for version in one["versions"]] == ["tiny@2"]
    assert shelf.client.get("/v1/models/tiny").json()["aliases"] == {"prod": 2}
    assert shelf.client.get("/v1/models").json()["data"][0]["aliases"] == {"prod": 2}
    document = assert_problem(shelf.client.get("/v1/models/tiny@stage"), 404, "not_found")
    assert document["detail"] == "model 'tiny' has no alias 'stage'; its newest version is 3"


def test_an_alias_may_be_pointed_at_what_another_one_means(shelf: Platform) -> None:
    put(shelf.client, "stage", 2, NEW)
    assert put(shelf.client, "prod", "stage", NEW).json()["version"] == 2


def test_whoever_moves_an_alias_must_have_seen_it(shelf: Platform) -> None:
    assert_problem(put(shelf.client, "prod", 1, {}), 428, "precondition_required")
    assert_problem(put(shelf.client, "prod", 1, {"If-Match": '"1"'}), 412, "precondition_failed")
    put(shelf.client, "prod", 1, NEW)
    stale = assert_problem(put(shelf.client, "prod", 2, NEW), 412, "precondition_failed")
    assert "at version 1" in stale["detail"]
    assert put(shelf.client, "prod", 2, {"If-Match": '"1"'}).status_code == 200
    assert_problem(put(shelf.client, "prod", 3, {"If-Match": '"1"'}), 412, "precondition_failed")
    assert put(shelf.client, "prod", 3, {"If-Match": "*"}).json()["version"] == 3
    assert_problem(shelf.client.delete("/v1/models/tiny/aliases/prod"), 428, "precondition_required")
    stale_delete = shelf.client.delete("/v1/models/tiny/aliases/prod", headers={"If-Match": '"1"'})
    assert_problem(stale_delete, 412, "precondition_failed")


def test_moving_it_to_where_it_is_changes_nothing(shelf: Platform) -> None:
    put(shelf.client, "prod", 1, NEW)
    again = put(shelf.client, "prod", 1, {"If-Match": '"1"'})
    assert again.headers["ETag"] == '"1"'
    assert len(shelf.client.get("/v1/models/tiny/aliases/prod/history").json()["data"]) == 1


def test_history_comes_in_pages_newest_first(shelf: Platform) -> None:
    put(shelf.client, "prod", 1, NEW)
    for version in (2, 3, 1):
        put(shelf.client, "prod", version, {"If-Match": "*"})
    first = shelf.client.get("/v1/models/tiny/aliases/prod/history?limit=3").json()
    second = shelf.client.get(f"/v1/models/tiny/aliases/prod/history?limit=3&after={first['last_id']}").json()
    assert [each["to_version"] for each in first["data"] + second["data"]] == [1, 3, 2, 1]
    assert (first["has_more"], second["has_more"]) == (True, False)


@pytest.mark.parametrize("version", [9, "none", 0, "0", "A", -1, True, 1.5, None])
def test_an_alias_points_at_a_version_that_is_there(shelf: Platform, version: Any) -> None:
    answer = put(shelf.client, "prod", version, NEW)
    if version in (9, "none"):
        assert_problem(answer, 404, "not_found")
    else:
        assert answer.status_code == 422, answer.text
    assert shelf.client.get("/v1/models/tiny").json()["aliases"] == {}


@pytest.mark.parametrize("alias", ["1", "Prod", "a b", "-a", "x" * 64])
def test_an_alias_is_no_number_and_no_odd_word(shelf: Platform, alias: str) -> None:
    assert_problem(put(shelf.client, alias, 1, NEW), 404, "not_found")


def test_what_an_alias_points_at_cannot_be_deleted(shelf: Platform) -> None:
    put(shelf.client, "prod", 2, NEW)
    for name in ("tiny@2", "tiny", "tiny@prod"):
        document = assert_problem(shelf.client.delete(f"/v1/models/{name}"), 409, "conflict")
        assert "tiny@prod at tiny@2" in document["detail"]
    assert shelf.client.delete("/v1/models/tiny@1").status_code == 200
    shelf.client.delete("/v1/models/tiny/aliases/prod", headers={"If-Match": "*"})
    assert shelf.client.delete("/v1/models/tiny").status_code == 200


def gate(client: TestClient, **gates: Any) -> None:
    answer = client.patch("/v1/models/tiny", json={"gates": gates}, headers={"If-Match": "*"})
    assert answer.status_code == 200, answer.text


def test_a_gate_refuses_what_cannot_be_compared_and_says_what_it_found(shelf: Platform) -> None:
    put(shelf.client, "prod", 1, NEW)
    gate(shelf.client, prod={"suite": ["piqa"]})
    document = assert_problem(put(shelf.client, "prod", 2, {"If-Match": '"1"'}), 409, "gate_refused")
    report = document["gate"]
    assert (report["passed"], report["candidate"]) == (False, "tiny@2")
    assert [check["task"] for check in report["checks"]] == ["piqa"]
    assert shelf.client.get("/v1/models/tiny").json()["aliases"] == {"prod": 1}

    trial = put(shelf.client, "prod", 2, {"If-Match": '"1"'}, dry_run=True)
    assert trial.status_code == 200, trial.text
    assert (trial.json()["passed"], trial.json()["gate"]) == (False, report)


def test_a_gate_that_lets_pass_leaves_its_report_in_the_history(shelf: Platform) -> None:
    put(shelf.client, "prod", 1, NEW)
    gate(shelf.client, prod={"suite": ["piqa"], "missing": "allow"})
    assert put(shelf.client, "prod", 2, {"If-Match": '"1"'}).status_code == 200
    newest, oldest = shelf.client.get("/v1/models/tiny/aliases/prod/history").json()["data"]
    assert (newest["gate"]["passed"], newest["gate"]["against"]) == (True, "tiny@1")
    assert oldest["gate"] is None
    assert put(shelf.client, "stage", 3, NEW).status_code == 200, "the gate is prod's alone"


def test_a_dry_run_moves_nothing_and_leaves_no_trace(shelf: Platform) -> None:
    answer = put(shelf.client, "prod", 2, NEW, dry_run=True)
    verdict = {"from_version": None, "to_version": 2, "gate": None, "passed": True, "dry_run": True}
    assert answer.json().items() >= verdict.items()
    assert shelf.client.get("/v1/models/tiny").json()["aliases"] == {}
    actions = [each["action"] for each in shelf.client.get("/v1/audit_events").json()["data"]]
    assert "alias.put" not in actions
    put(shelf.client, "prod", 2, NEW)
    newest = shelf.client.get("/v1/audit_events").json()["data"][0]
    assert (newest["action"], newest["target"]) == ("alias.put", "tiny@prod")
