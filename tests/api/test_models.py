"""The registry shows what was published, with links that anybody can download from until they expire."""

import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from bitsmith_core.storage import S3Store
from fastapi.testclient import TestClient

from tests.api.conftest import MANIFEST, Platform, assert_problem


def test_a_version_shows_what_was_made_and_measured(platform: Platform) -> None:
    job_id = platform.publish("tiny-demo")
    version = platform.client.get("/v1/models/tiny-demo/versions/1").json()
    manifest = MANIFEST.model_dump(mode="json")
    assert version["id"] == "tiny-demo@1"
    assert (version["object"], version["model"], version["version"]) == ("model.version", "tiny-demo", 1)
    assert (version["job_id"], version["bytes"]) == (job_id, 7)
    assert (version["bpw_codes"], version["bpw_effective"]) == (3.0, 3.5)
    assert version["manifest_sha256"] == MANIFEST.sha256
    for part in ("quantization", "training", "stages", "environment", "scores"):
        assert version[part] == manifest[part]
    described = [{key: value for key, value in file.items() if key != "download_url"} for file in version["files"]]
    assert described == manifest["files"]
    assert 3500 < version["download_expires_at"] - time.time() < 3700


def test_merged_adapters_have_no_bits_per_weight(platform: Platform) -> None:
    platform.publish("tiny-lora", MANIFEST.model_copy(update={"quantization": None}))
    version = platform.client.get("/v1/models/tiny-lora/versions/1").json()
    assert (version["quantization"], version["bpw_codes"], version["bpw_effective"]) == (None, None, None)
    summary = platform.client.get("/v1/models").json()["data"][0]["latest"]
    assert (summary["bpw_codes"], summary["bpw_effective"]) == (None, None)


def test_each_file_has_a_link_that_needs_no_key(platform: Platform, store: S3Store, tmp_path: Path) -> None:
    platform.publish("tiny-demo")
    version = platform.client.get("/v1/models/tiny-demo/versions/1").json()
    link = version["files"][1]["download_url"]
    url = urlsplit(link)
    (tmp_path / "config.json").write_text("{}")
    key = url.path.removeprefix("/bitsmith/")
    assert key == f"blobs/bb/{'b' * 64}"
    store.put_file(key, tmp_path / "config.json")

    answer = httpx.get(link)
    assert (answer.status_code, answer.text) == (200, "{}")
    assert "config.json" in answer.headers["content-disposition"]
    assert parse_qs(url.query)["X-Amz-Expires"] == ["3600"]


def test_a_model_lists_its_versions_newest_first(platform: Platform) -> None:
    platform.publish("tiny-demo")
    platform.publish("tiny-demo")
    model = platform.client.get("/v1/models/tiny-demo").json()
    assert (model["id"], model["object"], model["owned_by"]) == ("tiny-demo", "model", "bitsmith")
    assert model["base_model"] == "hf:org/tiny"
    assert [version["id"] for version in model["versions"]] == ["tiny-demo@2", "tiny-demo@1"]
    assert model["latest"]["id"] == "tiny-demo@2"
    assert model["versions"][0] == model["latest"]


def test_models_are_listed_by_name_page_by_page_without_their_versions(platform: Platform) -> None:
    for name in ("b", "a", "c"):
        platform.publish(name)
    first = platform.client.get("/v1/models", params={"limit": 2}).json()
    second = platform.client.get("/v1/models", params={"limit": 2, "after": first["last_id"]}).json()
    assert [model["id"] for model in first["data"] + second["data"]] == ["a", "b", "c"]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert "versions" not in first["data"][0]
    assert "files" not in first["data"][0]["latest"]
    (score,) = first["data"][0]["latest"]["scores"]
    assert (score["task"], score["value"], score["stderr"], score["n"]) == ("perplexity", 7.5, 0.1, 200)


@pytest.mark.parametrize("path", ["absent", "absent/versions/1", "%00", "a b", "%F0%9F%92%A5", "x" * 300])
def test_an_unknown_model_answers_404(client: TestClient, path: str) -> None:
    assert_problem(client.get(f"/v1/models/{path}"), 404, "not_found")


def test_an_unknown_version_answers_404_and_names_the_newest(platform: Platform) -> None:
    platform.publish("tiny-demo")
    document = assert_problem(platform.client.get("/v1/models/tiny-demo/versions/2"), 404, "not_found")
    assert "newest is 1" in document["detail"]


@pytest.mark.parametrize("version", ["0", "-1", "x", "2147483648", "99999999999999999999"])
def test_a_version_is_a_number(client: TestClient, version: str) -> None:
    assert_problem(client.get(f"/v1/models/m/versions/{version}"), 422, "invalid_request", "path version")


def test_a_cursor_that_is_no_name_is_refused(client: TestClient) -> None:
    assert_problem(client.get("/v1/models?after=%00"), 422, "invalid_request", "query after")


def test_a_version_answers_under_its_own_name(platform: Platform) -> None:
    for _ in range(2):
        platform.publish("tiny-demo")
    one = platform.client.get("/v1/models/tiny-demo@1").json()
    assert (one["id"], one["object"], one["latest"]["id"]) == ("tiny-demo@1", "model", "tiny-demo@1")
    assert [version["id"] for version in one["versions"]] == ["tiny-demo@1"]
    for absent in ("tiny-demo@3", "tiny-demo@0", "tiny-demo@", "tiny-demo@x", "tiny-demo@1@1", "other@1"):
        assert_problem(platform.client.get(f"/v1/models/{absent}"), 404, "not_found")


def test_a_deleted_version_is_gone_and_the_others_stay(platform: Platform) -> None:
    job_id = platform.publish("tiny-demo")
    platform.publish("tiny-demo")
    answer = platform.client.delete("/v1/models/tiny-demo@1")
    assert answer.json() == {"id": "tiny-demo@1", "object": "model", "deleted": True}
    assert_problem(platform.client.get("/v1/models/tiny-demo@1"), 404, "not_found")
    model = platform.client.get("/v1/models/tiny-demo").json()
    assert [version["id"] for version in model["versions"]] == ["tiny-demo@2"]
    assert platform.client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["fine_tuned_model"] is None


def test_a_model_is_deleted_with_all_its_versions_and_may_come_again(platform: Platform) -> None:
    for _ in range(2):
        platform.publish("tiny-demo")
    assert platform.client.delete("/v1/models/tiny-demo").json()["deleted"] is True
    assert platform.client.get("/v1/models").json()["data"] == []
    assert_problem(platform.client.delete("/v1/models/tiny-demo"), 404, "not_found")
    platform.publish("tiny-demo")
    again = platform.client.get("/v1/models/tiny-demo").json()
    assert [version["id"] for version in again["versions"]] == ["tiny-demo@3"], "no number is given twice"


def test_the_number_of_a_deleted_version_is_never_given_again(platform: Platform) -> None:
    for _ in range(2):
        platform.publish("tiny-demo")
    platform.client.delete("/v1/models/tiny-demo@2")
    assert platform.client.get("/v1/models/tiny-demo").json()["latest"]["id"] == "tiny-demo@1"
    platform.publish("tiny-demo")
    model = platform.client.get("/v1/models/tiny-demo").json()
    assert [version["id"] for version in model["versions"]] == ["tiny-demo@3", "tiny-demo@1"]


def test_the_last_version_takes_its_model_along(platform: Platform) -> None:
    platform.publish("tiny-demo")
    platform.client.delete("/v1/models/tiny-demo@1")
    assert_problem(platform.client.get("/v1/models/tiny-demo"), 404, "not_found")
