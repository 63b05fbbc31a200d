"""A version knows what it came from and what came from it; and the smallest that is good enough is found."""

import pytest

from tests.api.conftest import Platform, assert_problem
from tests.api.test_models_browse import made, score


def test_a_version_came_from_a_base_data_and_a_job(platform: Platform) -> None:
    job_id = platform.publish("tiny")
    platform.client.put("/v1/models/tiny/aliases/prod", json={"version": 1}, headers={"If-None-Match": "*"})
    version = platform.client.get("/v1/models/tiny/versions/1").json()
    job = platform.client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    (evaluation,) = version["evals"]
    assert (version["aliases"], evaluation["job_id"]) == (["prod"], job_id)

    lineage = platform.client.get("/v1/models/tiny/versions/1/lineage").json()
    training, validation = job["training_file"], job["validation_file"]
    assert [(node["kind"], node["id"], node["label"]) for node in lineage["nodes"]] == [
        ("base", "hf:org/tiny", "hf:org/tiny"),
        ("dataset", training, "training.jsonl"),
        ("dataset", validation, "validation.jsonl"),
        ("job", job_id, "qsft"),
        ("version", "tiny@1", "tiny@1"),
        ("export", "tiny@1/bf16", "bf16"),
        ("eval", evaluation["id"], lineage["nodes"][-1]["label"]),
    ]
    assert [(edge["from"], edge["to"], edge["kind"]) for edge in lineage["edges"]] == [
        ("hf:org/tiny", job_id, "base_of"),
        (training, job_id, "training_data"),
        (validation, job_id, "validation_data"),
        (job_id, "tiny@1", "published"),
        ("tiny@1", "tiny@1/bf16", "exported_as"),
        ("tiny@1", evaluation["id"], "measured_by"),
    ]
    hrefs = {node["kind"]: node["href"] for node in lineage["nodes"]}
    for kind in ("base", "dataset", "job", "version"):
        assert platform.client.get(hrefs[kind]).status_code == 200, kind


def test_data_that_was_deleted_is_named_and_leads_nowhere(platform: Platform) -> None:
    platform.publish("tiny")
    training = platform.client.get("/v1/models/tiny/versions/1").json()["dataset"]
    assert platform.client.delete(f"/v1/files/{training}").status_code == 200
    nodes = platform.client.get("/v1/models/tiny/versions/1/lineage").json()["nodes"]
    (gone,) = [node for node in nodes if node["id"] == training]
    assert (gone["label"], gone["href"]) == (training, None)


@pytest.fixture
def shelf(platform: Platform) -> Platform:
    """m@1: 100 bytes keep 90 % of piqa; m@2: 300 bytes keep 99 %; large: 200 bytes keep 97.5 %, and a perplexity."""
    base = score("piqa", 0.80, subject="float")
    platform.publish("m", made(size=100, scores=[base, score("piqa", 0.72)]))
    platform.publish("m", made(size=300, bpw=4.5, scores=[base, score("piqa", 0.792)]))
    losses = [score("perplexity", 10.0, subject="float"), score("perplexity", 12.5)]
    platform.publish("large", made(size=200, scores=[base, score("piqa", 0.78), *losses]))
    return platform


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("", "m@1"),
        ("score[piqa][gte]=0.75", "large@1"),
        ("score[piqa][gte]=0.79", "m@2"),
        ("keeps=0.89&task=piqa", "m@1"),
        ("keeps=0.97&task=piqa", "large@1"),
        ("keeps=0.98&task=piqa", "m@2"),
        ("keeps=0.8&task=perplexity", "large@1"),
        ("q=m&score[piqa][gte]=0.75", "m@2"),
        ("score[piqa][gte]=0.7&bpw[gte]=4", "m@2"),
    ],
)
def test_the_smallest_that_is_good_enough_is_the_best(shelf: Platform, query: str, best: str) -> None:
    answer = shelf.client.get(f"/v1/models/best?{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["id"] == best


@pytest.mark.parametrize(
    "query", ["score[piqa][gte]=0.9", "keeps=0.999&task=piqa", "keeps=0.81&task=perplexity", "keeps=0.5&task=wic"]
)
def test_none_is_good_enough(shelf: Platform, query: str) -> None:
    document = assert_problem(shelf.client.get(f"/v1/models/best?{query}"), 404, "not_found")
    assert "no version in the registry meets every filter" in document["detail"]


def test_what_is_kept_is_kept_of_one_task(shelf: Platform) -> None:
    assert_problem(shelf.client.get("/v1/models/best?keeps=0.9"), 422, "invalid_request", "query task")


def test_scores_under_different_keys_keep_nothing_of_each_other(platform: Platform) -> None:
    scores = [score("piqa", 0.80, subject="float", key="5-shot"), score("piqa", 0.79, key="0-shot")]
    platform.publish("m", made(scores=scores))
    assert_problem(platform.client.get("/v1/models/best?keeps=0.1&task=piqa"), 404, "not_found")
