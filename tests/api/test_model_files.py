"""A version's files one by one, by links that anybody may follow, and the card that says what they are."""

import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from bitsmith_core.bundle import FileEntry
from bitsmith_core.db import Database
from bitsmith_core.registry.blobs import object_key
from bitsmith_core.storage import S3Store
from fastapi.testclient import TestClient
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from sqlalchemy import text

from tests.api.conftest import MANIFEST, Platform, assert_problem

FILES = "/v1/models/tiny/versions/1/files"


@pytest.fixture
def published(platform: Platform, store: S3Store, tmp_path: Path) -> TestClient:
    platform.publish("tiny")
    (tmp_path / "config.json").write_text("{}")
    store.put_file(object_key("b" * 64), tmp_path / "config.json")
    return platform.client


def test_files_are_listed_by_path_with_digests_and_links(published: TestClient) -> None:
    answer = published.get(FILES).json()
    listed = [FileEntry(**{name: file[name] for name in ("path", "bytes", "sha256")}) for file in answer["data"]]
    assert listed == sorted(MANIFEST.files, key=lambda file: file.path)
    assert httpx.get(answer["data"][0]["download_url"]).text == "{}"
    assert 3500 < answer["download_expires_at"] - time.time() < 3700


def test_a_file_is_a_redirect_away_or_a_link_in_json(published: TestClient) -> None:
    redirect = published.get(f"{FILES}/bf16/config.json", follow_redirects=False)
    assert (redirect.status_code, redirect.headers["cache-control"]) == (307, "no-store")
    linked = published.get(f"{FILES}/bf16/config.json", params={"redirect": "false"}).json()
    assert (linked["path"], linked["bytes"], linked["sha256"]) == ("bf16/config.json", 2, "b" * 64)
    assert 3500 < linked["download_expires_at"] - time.time() < 3700
    for link in (redirect.headers["location"], linked["download_url"]):
        assert urlsplit(link).path.endswith(f"/{object_key('b' * 64)}")
        answer = httpx.get(link)
        assert (answer.text, answer.headers["content-disposition"]) == (
            "{}", "attachment; filename*=UTF-8''config.json",
        )  # fmt: skip


def test_what_a_version_does_not_have_is_not_there(published: TestClient) -> None:
    for path in ("absent", "bf16", "bf16/", "../bf16/config.json", "%00"):
        assert_problem(published.get(f"{FILES}/{path}"), 404, "not_found")
    for address in ("tiny/versions/2", "other/versions/1"):
        for page in ("files", "files/bf16/config.json", "card"):
            assert_problem(published.get(f"/v1/models/{address}/{page}"), 404, "not_found")


def test_the_card_is_markdown_around_the_text_of_people(published: TestClient, database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(text("UPDATE models SET card = 'Ask **Ada**.', licence = 'mit'"))
    answer = published.get("/v1/models/tiny/versions/1/card")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    card = ModelCard(answer.text)
    facts = card.data.to_dict()  # type: ignore[no-untyped-call]
    assert (facts["base_model"], facts["license"]) == ("org/tiny", "mit")
    name, results = model_index_to_eval_results(facts["model-index"])
    assert (name, [(result.metric_type, result.metric_value) for result in results]) == (
        "tiny@1", [("perplexity", 7.5)],
    )  # fmt: skip
    assert "Ask **Ada**." in card.content
