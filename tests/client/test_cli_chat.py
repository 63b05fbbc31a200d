"""`bitsmith chat` with a published version, through the real API and the real service; the engine follows a script."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bitsmith_client.cli import app
from bitsmith_client.lab import servers
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_client.sdk import Bitsmith
from bitsmith_core import jobs, registry
from bitsmith_core.bundle import describe_files
from bitsmith_core.db import Database
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from bitsmith_core.storage import S3Store
from live_api import KEY, running_api
from typer.testing import CliRunner, Result

from tests.api.conftest import MANIFEST

TOKEN = "token-for-tests"
SCRIPTED = [sys.executable, str(Path(__file__).parents[1] / "serving" / "scripted_engine.py")]


@dataclass(frozen=True, slots=True)
class Place:
    address: str
    cache: Path  # where engines' folders are

    def chat(self, *arguments: str, says: str = "") -> Result:
        return CliRunner().invoke(app, ["chat", *arguments, "--url", self.address, "--key", KEY], input=says)

    def heard(self, script: str) -> list[dict[str, Any]]:
        """The prompts that the engine with this script was asked."""
        folders = [path.parent for path in self.cache.glob("**/script.json") if path.read_text() == script]
        lines = [json.loads(line) for folder in folders for line in (folder / "heard.jsonl").read_text().splitlines()]
        return [line["prompt"] for line in lines if line["type"] == "ask"]


@pytest.fixture(scope="module")
def place(
    database_settings: DatabaseSettings, storage_settings: StorageSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder, port = tmp_path_factory.mktemp("chat"), servers.free_port()
    serving = Child(
        ChildSpec(
            name="serving",
            command=[sys.executable, "-m", "bitsmith_serving"],
            is_ready=lambda: not servers.is_free(port),
            environment={
                "BITSMITH_SERVING_PORT": str(port),
                "BITSMITH_SERVING_TOKEN": TOKEN,
                "BITSMITH_SERVING_CACHE": str(folder / "cache"),
                "BITSMITH_SERVING_ENGINE": json.dumps(SCRIPTED),
                "BITSMITH_STORAGE_ENDPOINT": storage_settings.endpoint,
                "BITSMITH_STORAGE_ACCESS_KEY": storage_settings.access_key,
                "BITSMITH_STORAGE_SECRET_KEY": storage_settings.secret_key.get_secret_value(),
                "BITSMITH_STORAGE_SECURE": "false",
            },
        ),
        folder,
    )
    serving.start()
    try:
        serving.wait_ready()
        with running_api(
            folder, database_settings, storage_settings,
            BITSMITH_SERVING_URL=f"http://127.0.0.1:{port}", BITSMITH_SERVING_TOKEN=TOKEN,
        ) as address:  # fmt: skip
            yield Place(address, folder / "cache")
    finally:
        serving.stop()


@pytest.fixture
def published(
    place: Place, database: Database, store: S3Store, tmp_path: Path, training_file: Path, validation_file: Path
) -> str:
    """Version m@1, which answers "Hello there"; its engine's script."""
    folder = tmp_path / "model"
    folder.mkdir()
    script = json.dumps({"folder": str(folder), "words": ["Hello", " there"]})
    (folder / "script.json").write_text(script)
    (folder / "model.safetensors").write_bytes(b"w")
    (folder / "quantization.json").write_text("{}")
    with Bitsmith(place.address, KEY) as bitsmith:
        files = {
            "training_file": bitsmith.files.upload(training_file).id,
            "validation_file": bitsmith.files.upload(validation_file).id,
        }
        job = JobId(bitsmith.jobs.create({"model": "hf:org/tiny", **files}).id)
    manifest = MANIFEST.model_copy(update={"files": describe_files(folder)})
    with database.transaction() as tx:
        lease = jobs.claim(tx, job, worker="gpu-0", ttl=timedelta(minutes=1))
        assert lease is not None
        registry.blobs.hold(tx, manifest.files)
        registry.publish(tx, project=DEFAULT_PROJECT, name="m", job_id=job, manifest=manifest)
        jobs.finish(tx, lease, result="m@1")
        stored = registry.get_version(tx, "m", 1, project=DEFAULT_PROJECT).files
        for file in stored:
            store.put_file(file.object_key, folder / file.path)
    return script


def test_one_question_is_answered_and_that_is_all(place: Place, published: str) -> None:
    answered = place.chat("m@1", "Who is there?", "--system", "Be brief.", "--temperature", "0", "--seed", "3")
    assert (answered.exit_code, answered.stdout) == (0, "Hello there\n"), answered.output
    (prompt,) = place.heard(published)
    assert prompt["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who is there?"},
    ]
    assert (prompt["sampling"]["temperature"], prompt["sampling"]["seed"]) == (0, 3)


def test_a_conversation_remembers_what_was_said_and_ends_with_an_empty_line(place: Place, published: str) -> None:
    talked = place.chat("m", says="One?\nTwo?\n\nThree?\n")
    assert (talked.exit_code, talked.stdout) == (0, "Hello there\nHello there\n"), talked.output
    assert [len(prompt["messages"]) for prompt in place.heard(published)] == [1, 3]


def test_a_model_that_is_not_there_is_one_line_and_status_1(place: Place, published: str) -> None:
    refused = place.chat("nobody", "Hello?")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
