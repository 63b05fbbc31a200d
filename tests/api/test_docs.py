"""docs/api.md is true: its commands run, in their order, against a real service; its tables name what exists."""

import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from bitsmith_api.settings import ApiSettings
from bitsmith_core import jobs, registry
from bitsmith_core.db import Database
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.jobs.queries import JobFilter
from bitsmith_core.storage import S3Store
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.api.conftest import EXAMPLE, KEY, MANIFEST, MINUTE

DOCS = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def work(database: Database, store: S3Store, folder: Path) -> None:
    """One worker's life: wait for a job, publish its files, end it."""
    job_id: JobId | None = None
    while job_id is None:
        time.sleep(0.1)
        with database.transaction() as tx:
            found = jobs.queries.page(tx, project=DEFAULT_PROJECT, limit=1, wanted=JobFilter()).jobs
            job_id = next((job.id for job in found), None)
    with database.transaction() as tx:
        lease = jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE)
    assert lease is not None
    for entry in MANIFEST.files:
        content = folder / "content"
        content.write_bytes(b"x" * entry.bytes)
        store.put_file(registry.blobs.object_key(entry.sha256), content)
    with database.transaction() as tx:
        registry.blobs.hold(tx, MANIFEST.files)
        registry.publish(tx, project=DEFAULT_PROJECT, name="name-demo", job_id=job_id, manifest=MANIFEST)
        jobs.finish(tx, lease, result="name-demo@1")


@pytest.mark.timeout(120)
@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "jq"))), reason="the examples need bash, curl and jq")
def test_the_commands_run_as_written(served: str, database: Database, store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_bytes(EXAMPLE * 2)
    (tmp_path / "validation.jsonl").write_bytes(EXAMPLE)
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE))
    worker = threading.Thread(target=work, args=(database, store, tmp_path), daemon=True)
    worker.start()
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
    worker.join()
    assert 'event: done\ndata: {"status": "succeeded"}' in done.stdout
    assert "Published as name-demo@1." in done.stdout
    for entry in MANIFEST.files:
        assert (tmp_path / "name-demo@1" / entry.path).stat().st_size == entry.bytes


def test_every_address_it_names_exists(app: FastAPI) -> None:
    shape = r"\$\w+|\$\{[^}]*\}|\{\w+\}"
    known = {re.sub(shape, "*", path) for path in app.openapi()["paths"]}
    named = {re.sub(shape, "*", path) for path in re.findall(r"/v1/[\w/${}%@*#.]*|/livez|/readyz|/metrics", DOCS)}
    assert len(named) >= 9
    assert named - {"/v1/"} <= known


def test_every_setting_it_names_exists() -> None:
    elsewhere = {
        "serving_url": "BITSMITH_SERVING_URL",
        "serving_token": "BITSMITH_SERVING_TOKEN",
        "webhooks": "BITSMITH_WEBHOOK_",
    }
    named = set(re.findall(r"BITSMITH_API_(\w+)", DOCS))
    assert {name.lower() for name in named} == set(ApiSettings.model_fields) - set(elsewhere)
    assert [name for name in elsewhere.values() if name not in DOCS] == []


def test_every_metric_it_names_exists(client: TestClient) -> None:
    named = {name.partition("{")[0] for name in re.findall(r"`(bitsmith_\w+[{}\w,]*)`", DOCS)} - {"bitsmith_api"}
    exposed = client.get("/metrics").text
    assert len(named) >= 8
    assert [name for name in named if f"# TYPE {name} " not in exposed] == []
