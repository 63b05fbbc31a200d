"""Bundles in a real object store; some real, some only scripts for the scripted engine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bitsmith_core.bundle import StoredFile, describe_files, files_sha256
from bitsmith_core.chat import Message, Order, Prompt
from bitsmith_core.storage import S3Store

PROMPT = Prompt(messages=(Message(role="user", content="7?"),), max_tokens=12)
Publish = Callable[..., Order]


def upload(store: S3Store, folder: Path, prefix: str, *, model: str = "m@1") -> Order:
    files = tuple(
        StoredFile(**file.model_dump(), object_key=f"{prefix}/{file.path}") for file in describe_files(folder)
    )
    for file in files:
        store.put_file(file.object_key, folder / file.path)
    return Order(model=model, manifest_sha256=files_sha256(list(files)), files=files, prompt=PROMPT)


def key_of(order: Order, path: str) -> str:
    """Where the file is in the store."""
    (found,) = (file.object_key for file in order.files if file.path == path)
    return found


@pytest.fixture
def publish(store: S3Store, tmp_path: Path) -> Publish:
    """publish("m", words=[…]) stores a bundle that makes the scripted engine behave so."""

    def make(name: str, **script: Any) -> Order:
        folder = tmp_path / f"bundle-{name}"
        folder.mkdir()
        (folder / "script.json").write_text(json.dumps({"name": name} | script))
        (folder / "model.safetensors").write_bytes(b"w" * 50)
        (folder / "quantization.json").write_text("{}")
        return upload(store, folder, f"test/{tmp_path.name}/{name}", model=f"{name}@1")

    return make


def entry(path: str) -> StoredFile:
    return StoredFile(path=path, bytes=1, sha256="0" * 64, object_key=f"keys/{path}")
