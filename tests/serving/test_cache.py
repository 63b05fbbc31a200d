"""A model's files: the right ones, once, verified, and never more on disk than allowed."""

import os
from pathlib import Path

import pytest
from bitsmith_core.bundle import StoredFile
from bitsmith_core.chat import Order
from bitsmith_core.settings import StorageSettings
from bitsmith_core.storage import S3Store
from bitsmith_serving.cache import ModelCache, files_for_chat, weights_bytes
from bitsmith_serving.errors import FilesUnavailable, NotChattable
from pydantic import SecretStr

from tests.serving.conftest import Publish, entry, key_of

NOWHERE = StorageSettings(endpoint="127.0.0.1:1", access_key="a", secret_key=SecretStr("b"), secure=False)


def cache(folder: Path, store: S3Store, *, limit_bytes: int = 10**9) -> ModelCache:
    return ModelCache(folder, store, limit_bytes=limit_bytes, patience_s=0)


def fetched(found: ModelCache, order: Order) -> Path:
    return found.fetch(order.manifest_sha256, order.files)


def paths(*names: str) -> list[str]:
    return [file.path for file in files_for_chat([entry(name) for name in names])]


def test_of_a_quantized_model_its_native_checkpoint_is_fetched() -> None:
    native = ["config.json", "model.safetensors", "quantization.json", "tokenizer.json"]
    assert paths(*native, "evals.json", "bits.svg", "bf16/model.safetensors", "bf16/config.json") == native


def test_of_merged_adapters_the_merged_weights_are_fetched() -> None:
    merged = ["bf16/config.json", "bf16/model.safetensors"]
    assert paths("adapter/adapter_model.safetensors", *merged, "evals.json") == merged


def test_a_version_without_weights_is_refused() -> None:
    with pytest.raises(NotChattable, match="neither a native checkpoint nor merged weights"):
        paths("adapter/adapter_model.safetensors")


@pytest.mark.parametrize("path", ["../model.safetensors", "/etc/passwd", "bf16/../../x", "a\\b", "a\0b"])
def test_a_path_that_leads_out_of_the_bundle_is_refused(path: str) -> None:
    with pytest.raises(NotChattable, match="no path inside a bundle"):
        paths("model.safetensors", "quantization.json", path)


def test_weights_are_what_takes_memory() -> None:
    assert weights_bytes([entry("model.safetensors"), entry("tokenizer.json")]) == 1


def test_files_are_downloaded_once_and_whole(store: S3Store, publish: Publish, tmp_path: Path) -> None:
    order = publish("m")
    folder = fetched(cache(tmp_path / "cache", store), order)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "quantization.json", "script.json"]
    assert (folder / "model.safetensors").read_bytes() == b"w" * 50
    assert fetched(cache(tmp_path / "cache", S3Store(NOWHERE)), order) == folder


def test_bytes_that_are_not_the_registrys_are_refused_and_not_kept(
    store: S3Store, publish: Publish, tmp_path: Path
) -> None:
    order = publish("m")
    (tmp_path / "other").write_bytes(b"x" * 50)
    store.put_file(key_of(order, "model.safetensors"), tmp_path / "other")
    found = cache(tmp_path / "cache", store)
    for _ in range(2):
        with pytest.raises(FilesUnavailable, match="another digest"):
            fetched(found, order)


def test_files_that_are_gone_and_a_store_that_is_away_are_told_apart(
    store: S3Store, publish: Publish, tmp_path: Path
) -> None:
    order = publish("m")
    with pytest.raises(FilesUnavailable, match="does not answer"):
        fetched(cache(tmp_path / "a", S3Store(NOWHERE)), order)
    store.delete(key_of(order, "script.json"))
    with pytest.raises(NotChattable, match="gone"):
        fetched(cache(tmp_path / "b", store), order)


def test_the_least_recently_used_model_goes_first_and_none_that_is_in_use(
    store: S3Store, publish: Publish, tmp_path: Path
) -> None:
    orders = {name: publish(name) for name in "abc"}
    size = sum(file.bytes for file in orders["a"].files)
    found = cache(tmp_path / "cache", store, limit_bytes=2 * size + size // 2)
    folders = {name: fetched(found, order) for name, order in orders.items()}
    for age, name in enumerate("cba"):  # a is the oldest
        os.utime(folders[name], (1000 - age, 1000 - age))
    found.drop_old(is_in_use=lambda manifest: manifest == orders["a"].manifest_sha256)
    assert {name for name, folder in folders.items() if folder.exists()} == {"a", "c"}


def test_half_a_download_is_no_model(store: S3Store, publish: Publish, tmp_path: Path) -> None:
    order = publish("m")
    part = tmp_path / "cache" / f"{order.manifest_sha256}.part"
    part.mkdir(parents=True)
    (part / "left.bin").write_bytes(b"x")
    folder = fetched(cache(tmp_path / "cache", store), order)
    assert not part.exists()
    assert not (folder / "left.bin").exists()


def test_a_file_of_no_bytes_is_fine(store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    store.put_file("test/empty/added_tokens.json", tmp_path / "empty")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    files = [StoredFile(path="added_tokens.json", bytes=0, sha256=digest, object_key="test/empty/added_tokens.json")]
    folder = cache(tmp_path / "cache", store).fetch("0" * 64, files)
    assert (folder / "added_tokens.json").read_bytes() == b""
