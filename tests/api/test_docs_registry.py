"""docs/registry.md is true: its commands run, in their order, against a real service with two versions."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import toy_evals
from bitsmith_core.bundle import FileEntry
from bitsmith_core.storage import S3Store
from fastapi import FastAPI

from tests.api.conftest import KEY, Platform

DOCS = (Path(__file__).parents[2] / "docs" / "registry.md").read_text()


def publish(platform: Platform, store: S3Store, folder: Path, *, right: int, size_bytes: int) -> None:
    """The next version of support-bot: it knows so many of the ten answers that its float base knows."""
    answers = [True] * right + [False] * (10 - right)
    content = toy_evals.evals({"float": {"piqa": [True] * 10}, "quantized": {"piqa": answers}})
    toy_evals.put(store, content, folder)
    manifest = toy_evals.manifest(content)
    weights = FileEntry(path="model.safetensors", bytes=size_bytes, sha256=str(size_bytes)[0] * 64)
    changes = {"base_model": "hf:Qwen/Qwen3-8B", "files": [*manifest.files, weights]}
    platform.publish("support-bot", manifest.model_copy(update=changes))


@pytest.mark.timeout(120)
@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "jq"))), reason="the examples need bash, curl and jq")
def test_the_commands_run_as_written(served: str, platform: Platform, store: S3Store, tmp_path: Path) -> None:
    publish(platform, store, tmp_path, right=9, size_bytes=500)
    publish(platform, store, tmp_path, right=10, size_bytes=600)
    headers = {"If-Match": "*"}
    assert platform.client.patch("/v1/models/support-bot", json={"tags": ["support"]}, headers=headers).is_success
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "BITSMITH_URL": served, "BITSMITH_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert said.startswith("support-bot@2\n"), "found by its filters"
    assert '"id": "support-bot@1"' in said, "good enough, and smaller"
    assert '\n"support-bot@2"\n' in said, "only it keeps 97 % of its base's score"
    assert "piqa\t0.1\tno difference" in said, "one answer of ten is noise"
    assert platform.client.get("/v1/models/support-bot").json()["aliases"] == {"prod": 1}
    assert platform.client.get("/v1/models/support-bot").json()["gates"]["prod"]["suite"] == ["piqa"]


def test_every_address_it_names_exists(app: FastAPI) -> None:
    known = {re.sub(r"\{\w+\}", "*", path) for path in app.openapi()["paths"]}
    asked = {f"/v1/{path}" for path in re.findall(r"^ask ([\w/]+)", DOCS, flags=re.MULTILINE)}
    named = set(re.findall(r"(?:GET|PATCH|DELETE) (/v1/[\w/{}@]+)", DOCS))
    below = {f"/v1/models/*/versions/*{path}" for path in re.findall(r"^\| `(/\w+)`", DOCS, flags=re.MULTILINE)}
    assert min(len(asked), len(named), len(below)) >= 2
    assert {re.sub(r"\{\w+\}(?:@\{\w+\})?", "*", path) for path in asked | named | below} <= known
