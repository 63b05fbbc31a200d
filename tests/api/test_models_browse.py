"""People find models by what their newest version is, and are told what else they could choose."""

from typing import Any

import pytest
from bitsmith_core.bundle import Manifest, Score, Subject
from fastapi.testclient import TestClient

from tests.api.conftest import MANIFEST, Platform, assert_problem


def score(task: str, value: float, *, subject: Subject = "qsft", stderr: float = 0.01, key: str = "k") -> Score:
    is_loss = task == "perplexity"
    return Score(
        subject=subject, task=task, metric="perplexity" if is_loss else "acc", value=value, stderr=stderr, n=100,
        n_unit="tokens" if is_loss else "questions", higher_is_better=not is_loss, comparable_key=key,
    )  # fmt: skip


def made(*, base: str = "hf:org/tiny", bpw: float | None = 2.5, size: int = 100, scores: list[Score]) -> Manifest:
    assert MANIFEST.quantization is not None
    facts = {"scheme": "layer-mix" if bpw and bpw < 4 else "uniform", "bpw_effective": bpw, "model_bytes": size}
    quantization = None if bpw is None else MANIFEST.quantization.model_copy(update=facts)
    return MANIFEST.model_copy(update={"base_model": base, "quantization": quantization, "scores": scores})


@pytest.fixture
def shelf(platform: Platform) -> Platform:
    """small (2.5 bits, 100 bytes, piqa 0.70), large (4.5 bits, 200 bytes, piqa 0.78), merged (adapters, no piqa)."""
    platform.publish("small", made(scores=[score("piqa", 0.80, subject="float"), score("piqa", 0.70)]))
    platform.publish("large", made(base="hf:org/other", bpw=4.5, size=200, scores=[score("piqa", 0.78)]))
    platform.publish("merged", made(bpw=None, scores=[score("perplexity", 9.0, subject="lora")]))
    return platform


def found(client: TestClient, query: str) -> list[str]:
    answer = client.get(f"/v1/models?{query}")
    assert answer.status_code == 200, answer.text
    return [model["id"] for model in answer.json()["data"]]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("q=SMA", ["small"]),
        ("q=org/o", ["large"]),
        ("q=_", []),
        ("base_model=hf:org/other", ["large"]),
        ("base_model=hf:org/other&base_model=hf:org/tiny", ["large", "merged", "small"]),
        ("scheme=layer-mix", ["small"]),
        ("method=lora", ["merged"]),
        ("method=qsft", ["large", "small"]),
        ("task=text-generation", ["large", "merged", "small"]),
        ("licence=mit", []),
        ("tag=mine", []),
        ("dataset=file-none", []),
        ("job=ftjob-none", []),
        ("bpw[lte]=4", ["small"]),
        ("bpw[gte]=2.5", ["large", "small"]),
        ("size_bytes[gte]=150", ["large"]),
        ("size_bytes[lte]=100", ["merged", "small"]),
        ("score[piqa][gte]=0.75", ["large"]),
        ("score[piqa][gte]=0.7&score[piqa][lte]=0.7", ["small"]),
        ("score[piqa][gte]=0.7&score[perplexity][lte]=10", []),
        ("created_at[lte]=1000000000", []),
        ("created_at[gte]=1000000000&q=small", ["small"]),
        ("sort=-size_bytes", ["large", "small", "merged"]),
        ("sort=bpw", ["small", "large", "merged"]),
        ("sort=-bpw", ["large", "small", "merged"]),
        ("sort=-score:piqa", ["large", "small", "merged"]),
        ("sort=score:piqa", ["small", "large", "merged"]),
        ("sort=-created_at", ["merged", "large", "small"]),
        ("sort=-name", ["small", "merged", "large"]),
    ],
)
def test_models_are_found_by_what_they_are(shelf: Platform, query: str, names: list[str]) -> None:
    small_bytes = shelf.client.get("/v1/models/merged").json()["latest"]["weights_bytes"]
    assert small_bytes == 7, "merged adapters weigh what their files do"
    assert found(shelf.client, query) == names


def test_filters_look_at_the_newest_version_only(shelf: Platform) -> None:
    shelf.publish("small", made(bpw=4.2, size=300, scores=[score("piqa", 0.6)]))
    assert found(shelf.client, "bpw[lte]=3") == []
    assert found(shelf.client, "score[piqa][lte]=0.65") == ["small"]
    assert found(shelf.client, "sort=-size_bytes") == ["small", "large", "merged"]


def test_lists_show_a_score_beside_the_base_it_came_from(shelf: Platform) -> None:
    by_name = {model["id"]: model["latest"] for model in shelf.client.get("/v1/models").json()["data"]}
    (small,), (large,) = by_name["small"]["scores"], by_name["large"]["scores"]
    assert (small["task"], small["value"], small["stderr"], small["n"]) == ("piqa", 0.70, 0.01, 100)
    assert small["base"] == {"value": 0.80, "stderr": 0.01, "n": 100}
    assert small["difference"] == pytest.approx(-0.10)
    assert (large["base"], large["difference"]) == (None, None), "its base was not scored"
    assert by_name["small"]["method"] == "qsft"


def test_scores_under_different_keys_are_never_subtracted(platform: Platform) -> None:
    scores = [score("piqa", 0.80, subject="float", key="5-shot"), score("piqa", 0.70, key="0-shot")]
    platform.publish("m", made(scores=scores))
    (only,) = platform.client.get("/v1/models").json()["data"][0]["latest"]["scores"]
    assert (only["base"], only["difference"]) == (None, None)


@pytest.mark.parametrize("sort", ["name", "-name", "size_bytes", "-bpw", "score:piqa", "-score:piqa", "created_at"])
def test_pages_go_on_where_the_last_one_ended_and_back_again(shelf: Platform, sort: str) -> None:
    whole = found(shelf.client, f"sort={sort}")
    read: list[str] = []
    query: dict[str, Any] = {"sort": sort, "limit": 1}
    while True:
        page = shelf.client.get("/v1/models", params=query).json()
        read += [model["id"] for model in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert read == whole
    back = shelf.client.get("/v1/models", params={"sort": sort, "limit": 1, "before": whole[-1]}).json()
    assert [model["id"] for model in back["data"]] == whole[-2:-1]
    assert back["has_more"] is True


def test_a_cursor_whose_model_is_gone_says_so(shelf: Platform) -> None:
    document = assert_problem(shelf.client.get("/v1/models?sort=bpw&after=gone"), 404, "not_found")
    assert "begin the list anew" in document["detail"]


def values(facets: dict[str, Any], facet: str) -> dict[str, int]:
    return {each["value"]: each["count"] for each in facets[facet]}


def test_facets_tell_what_there_is(shelf: Platform) -> None:
    facets = shelf.client.get("/v1/models/facets").json()
    assert (facets["object"], facets["total"]) == ("model.facets", 3)
    assert values(facets, "base_model") == {"hf:org/tiny": 2, "hf:org/other": 1}
    assert values(facets, "scheme") == {"layer-mix": 1, "uniform": 1}
    assert values(facets, "method") == {"qsft": 2, "lora": 1}
    assert values(facets, "task") == {"text-generation": 3}
    assert (facets["licence"], facets["tag"]) == ([], [])
    assert [each["label"] for each in facets["dataset"]] == ["training.jsonl"] * 3
    assert facets["bpw"] == {"min": 2.5, "max": 4.5}
    assert facets["size_bytes"] == {"min": 7, "max": 200}
    assert facets["created_at"]["min"] <= facets["created_at"]["max"]
    assert facets["scores"] == {
        "perplexity": {"metric": "perplexity", "n": 1, "min": 9.0, "max": 9.0, "higher_is_better": False},
        "piqa": {"metric": "acc", "n": 2, "min": 0.70, "max": 0.78, "higher_is_better": True},
    }


def test_a_facet_ignores_its_own_filter_and_keeps_the_others(shelf: Platform) -> None:
    facets = shelf.client.get("/v1/models/facets?method=qsft&score[piqa][gte]=0.75").json()
    assert facets["total"] == 1
    assert values(facets, "method") == {"qsft": 1}, "merged has no piqa"
    assert values(facets, "base_model") == {"hf:org/other": 1}
    assert facets["scores"]["piqa"]["n"] == 2, "piqa's own filter is ignored"
    assert facets["size_bytes"] == {"min": 200, "max": 200}
    by_method = shelf.client.get("/v1/models/facets?method=lora").json()
    assert values(by_method, "method") == {"qsft": 2, "lora": 1}
    assert by_method["bpw"] is None


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("sort=size", "query sort"),
        ("sort=score:", "query sort"),
        ("score[piqa]=1", "query score[piqa]"),
        ("score[piqa][gt]=1", "query score[piqa][gt]"),
        ("score[piqa][gte]=high", "query score[piqa][gte]"),
        ("score[piqa][gte]=nan", "query score[piqa][gte]"),
        ("score[piqa][gte]=1&score[piqa][gte]=2", "query score[piqa][gte]"),
        ("score=1", "query score"),
        ("&".join(f"score[t{n}][gte]=0" for n in range(17)), "query score"),
        ("bpw[lte]=inf", "query bpw[lte]"),
        ("size_bytes[lte]=-1", "query size_bytes[lte]"),
        ("method=magic", "query method"),
        ("q=%00", "query q"),
        ("tag=%00", "query tag"),
        ("before=%00", "query before"),
        ("limit=1001", "query limit"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(client: TestClient, query: str, pointer: str) -> None:
    assert_problem(client.get(f"/v1/models?{query}"), 422, "invalid_request", pointer)
