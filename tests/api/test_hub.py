"""Hugging Face's own clients read from here: huggingface_hub over a socket, transformers in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from bitsmith_core.bundle import MANIFEST, Manifest, describe_files, file_sha256
from bitsmith_core.db import Database
from bitsmith_core.registry.blobs import object_key
from bitsmith_core.storage import S3Store
from fastapi.testclient import TestClient
from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder
from sqlalchemy import text
from toy_bundle import write_native_bundle
from toy_model import save_toy_model
from transformers import AutoModelForCausalLM

from tests.api.conftest import KEY, Platform
from tests.api.conftest import MANIFEST as A_MANIFEST
from tests.api.keyring import as_key, new_key, new_project

Publish = Callable[[str, Path], Manifest]


@pytest.fixture
def publish(platform: Platform, store: S3Store) -> Publish:
    """The folder's files become the next version of the name."""

    def make(name: str, folder: Path) -> Manifest:
        files = describe_files(folder)
        for file in files:
            store.put_file(object_key(file.sha256), folder / file.path)
        manifest = A_MANIFEST.model_copy(update={"files": files})
        platform.publish(name, manifest)
        return manifest

    return make


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Of few bytes, laid out as all are."""
    folder = tmp_path / "bundle"
    for path, content in {
        "model.safetensors": "packed",
        "evals.json": "{}",
        "bf16/config.json": "plain",
        "bf16/deep/er/file.txt": "deep",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder


def contents(folder: Path, *, leave_out: str = "README.md") -> dict[str, str]:
    """Every file's digest, by its path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != leave_out]
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


@pytest.mark.timeout(120)
def test_a_snapshot_has_every_file_whole_and_a_second_one_asks_for_no_bytes(
    served: str, publish: Publish, bundle: Path, store: S3Store, tmp_path: Path
) -> None:
    manifest = publish("tiny", bundle)

    def snapshot(repo: str) -> Path:
        return Path(snapshot_download(repo, endpoint=f"{served}/hub", token=KEY, cache_dir=tmp_path / "cache"))

    found = snapshot("tiny")
    assert found.name == manifest.sha256[:40]
    assert contents(found) == contents(bundle / "bf16")
    assert ModelCard((found / "README.md").read_text()).data.to_dict()["base_model"] == "org/tiny"  # type: ignore[no-untyped-call]
    assert contents(snapshot("native/tiny")) == contents(bundle)

    for file in manifest.files:
        store.delete(object_key(file.sha256))
    assert snapshot("tiny") == found
    (bundle / "bf16" / "config.json").write_text("changed")
    changed = publish("tiny", bundle)
    for file in changed.files:
        if file.path != "bf16/config.json":  # who knows the digest of the others needs them no more
            store.delete(object_key(file.sha256))
    newer = snapshot("tiny")
    assert newer.name == changed.sha256[:40]
    assert contents(newer) == contents(bundle / "bf16")


@pytest.mark.timeout(120)
def test_transformers_loads_a_model_by_its_name(served: str, publish: Publish, tmp_path: Path) -> None:
    save_toy_model(tmp_path / "base")
    write_native_bundle(tmp_path / "base", tmp_path / "bundle")
    (tmp_path / "bundle" / MANIFEST).unlink()
    publish("toy-qsft", tmp_path / "bundle")
    program = """
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("toy-qsft", revision="1")
model = AutoModelForCausalLM.from_pretrained("toy-qsft", revision="1")
ids = tokenizer("1, 2, 3", return_tensors="pt").input_ids
with torch.no_grad():
    print(json.dumps([ids.tolist(), str(model.dtype), model(ids).logits.float().tolist()]))
"""
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:1")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": f"{served}/hub", "HF_TOKEN": KEY, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, **nowhere, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ids, dtype, logits = json.loads(done.stdout.splitlines()[-1])
    local = AutoModelForCausalLM.from_pretrained(tmp_path / "bundle" / "bf16")
    assert dtype == str(local.dtype) == "torch.bfloat16"
    with torch.no_grad():
        assert torch.equal(torch.tensor(logits), local(torch.tensor(ids)).logits.float())


@pytest.mark.timeout(120)
def test_its_clients_raise_their_own_exceptions(
    served: str, client: TestClient, publish: Publish, bundle: Path, tmp_path: Path
) -> None:
    publish("tiny", bundle)
    stranger = new_key(client, project=new_project(client, "blue"))["key"]

    def ask(repo: str, *, file: str | None = None, revision: str | None = None, token: str | bool = KEY) -> object:
        if file is None:
            return HfApi(endpoint=f"{served}/hub", token=token).model_info(repo, revision=revision)
        cache = tmp_path / "cache"
        return hf_hub_download(
            repo, file, revision=revision, endpoint=f"{served}/hub", token=token, cache_dir=cache
        )  # fmt: skip

    assert ask("tiny")
    for file in (None, "config.json"):
        for repo, token in (("other", KEY), ("org/tiny", KEY), ("tiny", False), ("tiny", stranger)):
            with pytest.raises(RepositoryNotFoundError):
                ask(repo, file=file, token=token)
        for revision in ("7", "prod", "f" * 40, "9" * 40, "99999999999", "a b"):
            with pytest.raises(RevisionNotFoundError):
                ask("tiny", file=file, revision=revision)
        with pytest.raises(HfHubHTTPError, match="401") as refused:
            ask("tiny", file=file, token="bsk_wrong")
        assert not isinstance(refused.value, RepositoryNotFoundError)
    with pytest.raises(EntryNotFoundError):
        ask("tiny", file="model.safetensors")
    assert [path.name for path in (tmp_path / "cache").rglob(".no_exist/*/*")] == ["model.safetensors"]


@pytest.mark.timeout(120)
def test_a_repository_is_listed_with_sizes_digests_and_folders(served: str, publish: Publish, bundle: Path) -> None:
    manifest = publish("tiny", bundle)
    api = HfApi(endpoint=f"{served}/hub", token=KEY)
    info = api.model_info("tiny", files_metadata=True)
    assert (info.id, info.sha, info.private) == ("tiny", manifest.sha256[:40], True)
    assert (info.pipeline_tag, info.library_name) == ("text-generation", "transformers")
    assert info.card_data is not None
    assert info.card_data.base_model == "org/tiny"
    assert info.siblings is not None
    sizes = {each.rfilename: each.size for each in info.siblings}
    card = client_card(served)
    assert sizes == {"README.md": len(card), "config.json": 5, "deep/er/file.txt": 4}
    digests = {each.rfilename: each.lfs.sha256 for each in info.siblings if each.lfs is not None}
    assert digests == contents(bundle / "bf16")

    def listed(repo: str = "tiny", path: str | None = None, *, recursive: bool = False) -> list[str]:
        found = api.list_repo_tree(repo, path, recursive=recursive)
        return [each.path + ("/" if isinstance(each, RepoFolder) else "") for each in found]

    assert listed() == ["README.md", "config.json", "deep/"]
    assert listed(path="deep") == ["deep/er/"]
    assert listed(path="deep/er") == ["deep/er/file.txt"]
    assert listed(recursive=True) == ["README.md", "config.json", "deep/", "deep/er/", "deep/er/file.txt"]
    assert listed("native/tiny") == ["README.md", "bf16/", "evals.json", "model.safetensors"]
    with pytest.raises(EntryNotFoundError):
        listed(path="deep/absent")
    (readme,) = (each for each in api.list_repo_tree("tiny") if each.path == "README.md")
    assert isinstance(readme, RepoFile)
    assert readme.blob_id == hashlib.sha1(b"blob %d\0" % len(card) + card).hexdigest()


def client_card(served: str) -> bytes:
    return httpx.get(f"{served}/v1/models/tiny/versions/1/card", headers=as_key(KEY)).content


def test_a_file_is_answered_with_what_a_cache_needs_and_where_its_bytes_are(
    client: TestClient, publish: Publish, bundle: Path
) -> None:
    manifest = publish("tiny", bundle)
    sha256 = file_sha256(bundle / "bf16" / "config.json")
    for method in ("HEAD", "GET"):
        answer = client.request(method, "/hub/tiny/resolve/main/config.json", follow_redirects=False)
        assert answer.status_code == 302
        assert answer.headers["x-repo-commit"] == manifest.sha256[:40]
        assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{sha256}"'
        assert answer.headers["x-linked-size"] == "5"
        assert f"/{object_key(sha256)}?" in answer.headers["location"]
    card = client.get("/hub/tiny/resolve/main/README.md", follow_redirects=False)
    assert (card.status_code, card.headers["x-repo-commit"]) == (200, manifest.sha256[:40])
    assert card.headers["etag"] == f'"{hashlib.sha256(card.content).hexdigest()}"'
    assert card.text == client.get("/v1/models/tiny/versions/1/card").text


def test_a_revision_is_main_a_number_an_alias_or_a_commit(
    client: TestClient, publish: Publish, bundle: Path, database: Database
) -> None:
    first = publish("tiny", bundle).sha256[:40]
    (bundle / "evals.json").write_text("[]")
    second = publish("tiny", bundle).sha256[:40]
    with database.transaction() as tx:
        tx.execute(text("INSERT INTO aliases (model_id, name, number) SELECT id, 'prod', 1 FROM models"))
    meant = {"main": second, "1": first, "2": second, "prod": first, first: first, second: second}
    for revision, commit in meant.items():
        assert client.get(f"/hub/api/models/tiny/revision/{revision}").json()["sha"] == commit
        assert client.head(f"/hub/tiny/resolve/{revision}/README.md").headers["x-repo-commit"] == commit
    assert client.get("/hub/api/models/tiny").json()["sha"] == second


@pytest.mark.parametrize(
    "odd", ["a%0Ab", "a%0D%0AX-Other:%20b", "%C3%A9", "%F0%9F%92%A5", "%00", "%D9%A1", "..%2Fx", "%25"]
)
def test_odd_names_are_just_not_there(client: TestClient, publish: Publish, bundle: Path, odd: str) -> None:
    publish("tiny", bundle)
    for path, code in {
        f"api/models/{odd}": "RepoNotFound",
        f"api/models/tiny/revision/{odd}": "RevisionNotFound",
        f"tiny/resolve/{odd}/config.json": "RevisionNotFound",
        f"tiny/resolve/main/{odd}": "EntryNotFound",
        f"api/models/tiny/tree/main/{odd}": "EntryNotFound",
    }.items():
        answer = client.get(f"/hub/{path}", follow_redirects=False)
        assert (answer.status_code, answer.headers.get("x-other")) == (404, None), path
        assert answer.headers.get("x-error-code", code) == code, path


def test_a_bundle_without_that_folder_comes_as_it_is(client: TestClient, publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.safetensors").write_text("packed")
    publish("tiny", tmp_path / "bundle")
    for repo in ("tiny", "native/tiny"):
        siblings = client.get(f"/hub/api/models/{repo}").json()["siblings"]
        assert [each["rfilename"] for each in siblings] == ["README.md", "model.safetensors"]


def test_a_key_that_may_not_read_models_reads_none_here(client: TestClient, publish: Publish, bundle: Path) -> None:
    publish("tiny", bundle)
    key = new_key(client, scopes=["files:read"])["key"]
    for path in ("/hub/api/models/tiny", "/hub/api/models/tiny/tree/main", "/hub/tiny/resolve/main/config.json"):
        assert client.get(path, headers=as_key(key), follow_redirects=False).status_code == 403
