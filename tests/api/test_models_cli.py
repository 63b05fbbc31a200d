"""`bitsmith models` and the SDK find, compare, point and describe what was published, against a real server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bitsmith_client.cli import app
from bitsmith_client.sdk import ApiError, Bitsmith, ModelFilter
from typer.testing import CliRunner, Result

from tests.api.conftest import KEY, Platform
from tests.api.test_models_browse import made, score

Run = Callable[..., Result]


@pytest.fixture
def shelf(platform: Platform) -> Platform:
    """small@1 (100 bytes, piqa 0.70 of 0.80), small@2 (120 bytes, 0.75), large@1 (300 bytes, 0.79)."""
    base = score("piqa", 0.80, subject="float")
    platform.publish("small", made(size=100, scores=[base, score("piqa", 0.70)]))
    platform.publish("small", made(size=120, scores=[base, score("piqa", 0.75)]))
    platform.publish("large", made(base="hf:org/other", bpw=4.5, size=300, scores=[base, score("piqa", 0.79)]))
    return platform


@pytest.fixture
def run(shelf: Platform, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [*(str(each) for each in arguments), "--url", served, "--key", KEY])

    return invoke


@pytest.fixture
def bitsmith(shelf: Platform, served: str) -> Iterator[Bitsmith]:
    with Bitsmith(served, KEY) as client:
        yield client


def listed(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [model["id"] for model in json.loads(result.stdout)]


def test_a_list_is_narrowed_and_sorted(run: Run) -> None:
    assert listed(run("models", "--json")) == ["large", "small"]
    assert listed(run("models", "ls", "--json", "--sort", "-size_bytes")) == ["large", "small"]
    assert listed(run("models", "ls", "--json", "--score", "piqa>=0.76")) == ["large"]
    assert listed(run("models", "ls", "--json", "--score", "piqa<=0.76", "--max-size", "0.12kB")) == ["small"]
    assert listed(run("models", "ls", "--json", "--base", "hf:org/other", "--max-bpw", 4)) == []
    assert "no model meets every filter" in run("models", "ls", "--q", "nothing").stdout
    table = run("models").stdout
    assert "small@2" in table
    assert "(-0.05 to its base)" in table


@pytest.mark.parametrize("arguments", [("--score", "piqa"), ("--score", "piqa>=x"), ("--max-size", "big")])
def test_a_filter_that_makes_no_sense_has_status_2(run: Run, arguments: tuple[str, str]) -> None:
    assert run("models", "ls", *arguments).exit_code == 2


def test_one_model_is_shown_by_name_number_or_alias(run: Run, bitsmith: Bitsmith) -> None:
    bitsmith.models.point("small", "prod", 1)
    assert "small@2" in run("models", "small").stdout
    assert json.loads(run("models", "show", "small@prod", "--json").stdout)["id"] == "small@1"
    assert run("models", "show", "small@stage").stderr.startswith("error: model 'small' has no alias 'stage'")
    assert "prod=1" in run("models").stdout


def test_the_best_is_the_smallest_that_is_good_enough(run: Run) -> None:
    assert run("models", "best").stdout == "small@1\n"
    assert run("models", "best", "--score", "piqa>=0.72").stdout == "small@2\n"
    assert run("models", "best", "--keeps", 0.97, "--task", "piqa").stdout == "large@1\n"
    none = run("models", "best", "--score", "piqa>=0.9")
    assert (none.exit_code, none.stderr.count("\n")) == (1, 1)
    assert run("models", "best", "--keeps", 0.97).exit_code == 2


def test_an_alias_from_its_making_to_its_end(run: Run) -> None:
    assert (
        run("models", "alias", "small", "prod", 1, "--reason", "the first").stdout == "small@prod points at small@1\n"
    )
    assert run("models", "alias", "small", "prod", 2, "--dry-run").stdout.startswith("small@prod may point at small@2")
    assert run("models", "alias", "small", "prod", 2).stdout == "small@prod points at small@2\n"
    assert "small@prod" in run("models", "alias", "small").stdout
    history = run("models", "alias", "small", "prod").stdout
    assert "the first" in history
    assert run("models", "alias", "small", "prod", "--delete").exit_code == 0
    assert "no alias yet" in run("models", "alias", "small").stdout


def test_a_gate_that_refuses_is_one_line_and_status_1(run: Run, bitsmith: Bitsmith) -> None:
    bitsmith.models.point("small", "prod", 1)
    bitsmith.models.change("small", {"gates": {"prod": {"suite": ["wic"]}}})
    refused = run("models", "alias", "small", "prod", 2)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith("error: small@2 is refused against small@1")
    assert run("models", "alias", "small", "prod", 2, "--dry-run").exit_code == 1


def test_tags_are_added_and_removed(run: Run) -> None:
    assert run("models", "tag", "small", "german", "support").stdout == "german support\n"
    assert run("models", "tag", "small", "--remove", "german").stdout == "support\n"
    assert listed(run("models", "ls", "--json", "--tag", "support")) == ["small"]


def test_two_versions_are_compared_or_said_not_to_be_comparable(run: Run) -> None:
    compared = run("models", "compare", "small@2", "small@1")
    assert compared.exit_code == 0, compared.output
    assert "piqa" in compared.stdout
    assert json.loads(run("models", "compare", "small@2", "small@1", "--json").stdout)["a"] == "small@2"


def test_the_sdk_reads_what_there_is_to_choose(bitsmith: Bitsmith) -> None:
    facets = bitsmith.models.facets(ModelFilter(max_scores={"piqa": 0.76}))
    assert (facets.total, facets.scores["piqa"].n) == (1, 2)
    assert [each.value for each in facets.base_model] == ["hf:org/tiny"]
    assert [version.version for version in bitsmith.models.versions("small")] == [2, 1]
    lineage = bitsmith.models.lineage("small", 1)
    assert {node.kind for node in lineage.nodes} == {"base", "dataset", "job", "version", "export", "eval"}
    seen = bitsmith.models.get("small")
    bitsmith.models.change("small", {"display_name": "Small"}, revision=seen.revision)
    with pytest.raises(ApiError, match="changed since") as stale:
        bitsmith.models.change("small", {"display_name": "Smaller"}, revision=seen.revision)
    assert stale.value.code == "precondition_failed"
