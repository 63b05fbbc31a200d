"""Evaluations over HTTP: records, single answers, and comparisons that refuse what was not asked the same."""

from pathlib import Path

import pytest
import toy_evals
from bitsmith_core.bundle import Evals
from bitsmith_core.storage import S3Store
from fastapi.testclient import TestClient

from tests.api.conftest import Platform, assert_problem

YES, NO = True, False


@pytest.fixture
def scored(platform: Platform, store: S3Store, tmp_path: Path) -> Platform:
    """tiny@1 answers 10 of 40 questions that tiny@2 answers all; of each other task only one was asked."""
    answers: list[Evals] = [
        toy_evals.evals({"float": {"piqa": [YES] * 40}, "quantized": {"piqa": [YES] * 10 + [NO] * 30, "wic": [YES]}}),
        toy_evals.evals({"float": {"piqa": [YES] * 40}, "quantized": {"piqa": [YES] * 40, "boolq": [NO]}}),
    ]
    for number, content in enumerate(answers):
        toy_evals.put(store, content, tmp_path)
        platform.publish("tiny", toy_evals.manifest(content, weights="ab"[number]))
    return platform


def test_each_job_has_an_evaluation_of_what_it_published(scored: Platform) -> None:
    page = scored.client.get("/v1/evals", params={"model": "tiny"}).json()
    assert [(found["model"], found["version"]) for found in page["data"]] == [("tiny", 2), ("tiny", 1)]
    newest = page["data"][0]
    assert (newest["object"], newest["subject"], newest["has_items"]) == ("eval", "quantized", True)
    shown = {(score["subject"], score["task"]): score["is_headline"] for score in newest["results"]}
    assert shown == {("float", "piqa"): False, ("quantized", "piqa"): True, ("quantized", "boolq"): True}
    assert newest["results"][0]["details"]["harness"] == "lm_eval 0.4.13"
    assert scored.client.get(f"/v1/evals/{newest['id']}").json() == newest


def test_lists_are_narrowed_and_read_page_by_page(scored: Platform) -> None:
    first = scored.client.get("/v1/evals", params={"limit": 1}).json()
    rest = scored.client.get("/v1/evals", params={"limit": 1, "after": first["last_id"]}).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [row["version"] for row in first["data"] + rest["data"]] == [2, 1]
    for query, versions in (("version=1", [1]), ("task=boolq", [2]), ("model=other", []), ("task=piqa", [2, 1])):
        found = scored.client.get(f"/v1/evals?{query}").json()["data"]
        assert [row["version"] for row in found] == versions


def test_single_answers_can_be_read_in_pieces(scored: Platform) -> None:
    eval_id = scored.client.get("/v1/evals?version=1").json()["data"][0]["id"]
    url = f"/v1/evals/{eval_id}/items"
    first = scored.client.get(url, params={"task": "piqa", "limit": 9}).json()
    rest = scored.client.get(url, params={"task": "piqa", "limit": 100, "after": first["last_id"]}).json()
    rows = first["data"] + rest["data"]
    assert [row["correct"]["acc"] for row in rows] == [YES] * 10 + [NO] * 30
    assert [row["doc"] for row in rows] == list(range(40))
    assert (first["has_more"], rest["has_more"]) == (True, False)
    of_base = scored.client.get(url, params={"task": "piqa", "subject": "float", "limit": 100}).json()["data"]
    assert all(row["correct"]["acc"] for row in of_base)


def test_answers_that_are_not_there_are_404(scored: Platform, store: S3Store) -> None:
    eval_id = scored.client.get("/v1/evals?version=1").json()["data"][0]["id"]
    url = f"/v1/evals/{eval_id}/items"
    assert (
        "no items of 'mmlu'"
        in assert_problem(scored.client.get(url, params={"task": "mmlu"}), 404, "not_found")["detail"]
    )
    refused = assert_problem(scored.client.get(url, params={"task": "piqa", "subject": "lora"}), 404, "not_found")
    assert "it scored float, quantized" in refused["detail"]


def test_two_versions_are_compared_on_what_both_were_asked(scored: Platform) -> None:
    found = scored.client.get("/v1/evals/compare", params={"a": "tiny@1", "b": "tiny@2"}).json()
    assert (found["a"], found["b"], found["confidence"]) == ("tiny@1", "tiny@2", 0.95)
    tasks = {task["task"]: task for task in found["tasks"]}
    piqa = tasks["piqa"]
    assert (piqa["a"], piqa["b"], piqa["difference"], piqa["n"]) == (0.25, 1.0, -0.75, 40)
    assert (piqa["verdict"], piqa["significant"], piqa["reason"]) == ("worse", True, None)
    assert piqa["p_value"] == pytest.approx(2 / 2**30)
    assert piqa["low"] < -0.75 < piqa["high"] < 0
    assert tasks["wic"]["reason"].startswith("tiny@2 was not scored on it")
    assert tasks["boolq"]["reason"].startswith("tiny@1 was not scored on it")
    for alone in ("wic", "boolq"):
        assert (tasks[alone]["verdict"], tasks[alone]["difference"]) == ("not comparable", None)


def test_a_version_is_compared_with_what_it_was_made_from(scored: Platform) -> None:
    found = scored.client.get("/v1/evals/compare", params={"a": "tiny", "b": "tiny@2:float"}).json()
    assert (found["a"], found["b"]) == ("tiny@2", "tiny@2:float")
    piqa = next(task for task in found["tasks"] if task["task"] == "piqa")
    assert (piqa["difference"], piqa["verdict"], piqa["p_value"]) == (0.0, "no difference", 1.0)


def test_what_was_not_asked_the_same_is_never_subtracted(
    scored: Platform, platform: Platform, store: S3Store, tmp_path: Path
) -> None:
    other = toy_evals.evals({"quantized": {"piqa": [YES] * 40}}, key="another pack")
    toy_evals.put(store, other, tmp_path)
    platform.publish("other", toy_evals.manifest(other, weights="c"))
    found = scored.client.get("/v1/evals/compare", params={"a": "other@1", "b": "tiny@1"}).json()
    piqa = next(task for task in found["tasks"] if task["task"] == "piqa")
    assert (piqa["a"], piqa["b"]) == (1.0, 0.25)
    assert (piqa["verdict"], piqa["difference"], piqa["p_value"]) == ("not comparable", None, None)
    assert "not asked the same" in piqa["reason"]


@pytest.mark.parametrize("path", ["eval-absent", "eval-" + "0" * 26, "%00", "eval-" + "0" * 26 + "/items?task=piqa"])
def test_an_unknown_evaluation_answers_404(client: TestClient, path: str) -> None:
    assert_problem(client.get(f"/v1/evals/{path}"), 404, "not_found")


def test_sides_that_are_not_there_or_make_no_sense_are_refused(scored: Platform) -> None:
    compare = "/v1/evals/compare?b=tiny@1"
    assert_problem(scored.client.get(f"{compare}&a=tiny@7"), 404, "not_found")
    assert_problem(scored.client.get(f"{compare}&a=tiny@1:best"), 422, "invalid_request", "query a")
    assert_problem(scored.client.get(compare), 422, "invalid_request", "query a")
    assert_problem(scored.client.get(f"{compare}&a=tiny&confidence=1"), 422, "invalid_request", "query confidence")


def test_the_items_of_an_evaluation_may_be_gone_and_the_scores_stay(scored: Platform, store: S3Store) -> None:
    for found in store.list("blobs/"):
        store.delete(found.key)
    compared = scored.client.get("/v1/evals/compare", params={"a": "tiny@1", "b": "tiny@2"}).json()
    piqa = next(task for task in compared["tasks"] if task["task"] == "piqa")
    assert (piqa["a"], piqa["b"], piqa["verdict"]) == (0.25, 1.0, "not comparable")
    assert "are not kept" in piqa["reason"]
