"""People write about their models, and nobody overwrites what they have not seen."""

from typing import Any

import pytest

from tests.api import keyring
from tests.api.conftest import Platform, assert_problem

ABOUT = {
    "display_name": "Tiny, but good",
    "task": "summarization",
    "licence": "apache-2.0",
    "card": "# Tiny\n\nWhat it is for.",
    "tags": ["german", "support"],
}


@pytest.fixture
def shelf(platform: Platform) -> Platform:
    platform.publish("tiny")
    return platform


def test_what_people_wrote_is_shown_and_found(shelf: Platform) -> None:
    before = shelf.client.get("/v1/models/tiny")
    sent = {**ABOUT, "tags": ["support", "german", "support"]}
    answer = shelf.client.patch("/v1/models/tiny", json=sent, headers={"If-Match": before.headers["ETag"]})
    assert answer.status_code == 200, answer.text
    assert answer.json().items() >= {**ABOUT, "revision": 2}.items()
    assert shelf.client.get("/v1/models/tiny").json() == answer.json()
    for query in ("licence=apache-2.0", "task=summarization", "tag=german&tag=support", "q=GERM", "q=but+good"):
        assert [each["id"] for each in shelf.client.get(f"/v1/models?{query}").json()["data"]] == ["tiny"], query
    assert shelf.client.get("/v1/models?tag=german&tag=french").json()["data"] == []
    facets = shelf.client.get("/v1/models/facets").json()
    assert [each["value"] for each in facets["tag"]] == ["german", "support"]
    assert "card" not in shelf.client.get("/v1/models").json()["data"][0]


def test_what_is_left_out_stays_and_null_takes_it_back(shelf: Platform) -> None:
    shelf.client.patch("/v1/models/tiny", json=ABOUT, headers={"If-Match": "*"})
    after = shelf.client.patch("/v1/models/tiny", json={"card": None}, headers={"If-Match": "*"}).json()
    assert after.items() >= {**ABOUT, "card": None}.items()
    same = shelf.client.patch("/v1/models/tiny", json={}, headers={"If-Match": "*"})
    assert same.json() == after, "nothing to change is no change"


def test_a_change_must_have_seen_what_it_changes(shelf: Platform) -> None:
    assert_problem(shelf.client.patch("/v1/models/tiny", json={}), 428, "precondition_required")
    first = shelf.client.patch("/v1/models/tiny", json={"tags": ["a"]}, headers={"If-Match": '"1"'})
    assert first.headers["ETag"] == '"2"'
    stale = shelf.client.patch("/v1/models/tiny", json={"tags": ["b"]}, headers={"If-Match": '"1"'})
    assert_problem(stale, 412, "precondition_failed")
    assert shelf.client.get("/v1/models/tiny").json()["tags"] == ["a"]


def test_other_projects_read_what_is_shared_with_the_installation_and_change_nothing(shelf: Platform) -> None:
    blue = keyring.in_project(keyring.new_project(shelf.client, "blue"))
    assert_problem(shelf.client.get("/v1/models/tiny", headers=blue), 404, "not_found")
    assert shelf.client.get("/v1/models", headers=blue).json()["data"] == []

    shelf.client.patch("/v1/models/tiny", json={"visibility": "installation"}, headers={"If-Match": "*"})
    assert shelf.client.get("/v1/models/tiny", headers=blue).json()["latest"]["id"] == "tiny@1"
    assert shelf.client.get("/v1/models/tiny/versions/1", headers=blue).json()["files"]
    assert [each["id"] for each in shelf.client.get("/v1/models", headers=blue).json()["data"]] == ["tiny"]
    assert [each["id"] for each in shelf.client.get("/v1/models?sort=-name").json()["data"]] == ["tiny"]
    assert shelf.client.get("/v1/models/facets", headers=blue).json()["total"] == 1
    refused = shelf.client.patch("/v1/models/tiny", json={"card": "mine"}, headers={"If-Match": "*", **blue})
    assert_problem(refused, 404, "not_found")
    assert_problem(shelf.client.delete("/v1/models/tiny", headers=blue), 404, "not_found")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"tags": ["a b"]}, "/tags/0"),
        ({"tags": ["a"] * 65}, "/tags"),
        ({"visibility": "world"}, "/visibility"),
        ({"task": ""}, "/task"),
        ({"licence": "a\nb"}, "/licence"),
        ({"card": "\0"}, "/card"),
        ({"name": "other"}, "/name"),
        ({"gates": {"prod": {"max_loss": -1}}}, "/gates/prod/max_loss"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(shelf: Platform, change: dict[str, Any], pointer: str) -> None:
    answer = shelf.client.patch("/v1/models/tiny", json=change, headers={"If-Match": "*"})
    assert_problem(answer, 422, "invalid_request", pointer)


def test_a_deleted_model_that_comes_again_has_nothing_written_about_it(shelf: Platform) -> None:
    shelf.client.patch("/v1/models/tiny", json=ABOUT, headers={"If-Match": "*"})
    shelf.client.delete("/v1/models/tiny")
    assert_problem(shelf.client.patch("/v1/models/tiny", json={}, headers={"If-Match": "*"}), 404, "not_found")
    shelf.publish("tiny")
    again = shelf.client.get("/v1/models/tiny").json()
    assert (again["display_name"], again["card"], again["tags"], again["task"]) == (None, None, [], "text-generation")
