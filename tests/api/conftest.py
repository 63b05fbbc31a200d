"""The API over real servers: in this process for most promises, as a process of its own for what needs a socket."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from bitsmith_api.app import create_app
from bitsmith_api.settings import ApiSettings
from bitsmith_client.lab import servers
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_core import jobs, registry
from bitsmith_core.bundle import Environment, FileEntry, Manifest, QuantizationFacts, Score, StageFacts
from bitsmith_core.db import Database
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from bitsmith_core.storage import S3Store
from bitsmith_core.wire import Note
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

KEY = "key-for-tests-0123456789"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
MAX_UPLOAD_BYTES = 11_000_000
EXAMPLE = b'{"prompt": "2 + 2?", "completion": "4"}\n'
MINUTE = timedelta(minutes=1)

NOWHERE = DatabaseSettings(url=SecretStr("postgresql+psycopg://nobody:secret-of-postgres@127.0.0.1:1/none"))
NO_STORE = StorageSettings(endpoint="127.0.0.1:1", access_key="a", secret_key=SecretStr("b"), secure=False)


def application(database: Database, store: S3Store) -> FastAPI:
    settings = ApiSettings(key=SecretStr(KEY), max_upload_bytes=MAX_UPLOAD_BYTES)
    return create_app(settings=settings, database=database, store=store)


@pytest.fixture
def app(database: Database, store: S3Store) -> FastAPI:
    return application(database, store)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, headers=AUTHORIZED) as client:
        yield client


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What clients and workers do, each in a line."""

    client: TestClient
    database: Database

    def upload(self, content: bytes = EXAMPLE, *, filename: str = "training.jsonl") -> str:
        answer = self.client.post("/v1/files", files={"file": (filename, content)}, data={"purpose": "fine-tune"})
        assert answer.status_code == 200, answer.text
        file_id: str = answer.json()["id"]
        return file_id

    def request(self, **changes: Any) -> dict[str, Any]:
        """A job's request, its files uploaded."""
        files = {"training_file": self.upload(), "validation_file": self.upload(filename="validation.jsonl")}
        return {"model": "hf:org/tiny", **files, **changes}

    def submit(self, **changes: Any) -> JobId:
        answer = self.client.post("/v1/fine_tuning/jobs", json=self.request(**changes))
        assert answer.status_code == 200, answer.text
        return JobId(answer.json()["id"])

    def claim(self, job_id: JobId) -> jobs.Lease:
        with self.database.transaction() as tx:
            lease = jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE)
        assert lease is not None
        return lease

    def note(self, lease: jobs.Lease, message: str) -> None:
        with self.database.transaction() as tx:
            jobs.record(tx, lease, Note(level="info", message=message))

    def finish(self, lease: jobs.Lease) -> None:
        with self.database.transaction() as tx:
            jobs.finish(tx, lease, result="m@1")

    def publish(self, name: str, manifest: Manifest | None = None) -> JobId:
        """A job that ran and published the next version of `name`."""
        job_id = self.submit()
        lease = self.claim(job_id)
        with self.database.transaction() as tx:
            manifest = manifest or MANIFEST
            registry.blobs.hold(tx, manifest.files)
            version = registry.publish(tx, project=DEFAULT_PROJECT, name=name, job_id=job_id, manifest=manifest)
            jobs.finish(tx, lease, result=f"{name}@{version.number}")
        return job_id


@pytest.fixture
def platform(client: TestClient, database: Database) -> Platform:
    return Platform(client=client, database=database)


@pytest.fixture
def serve(
    database: Database, database_settings: DatabaseSettings, storage_settings: StorageSettings, tmp_path: Path
) -> Iterator[Callable[[], tuple[Child, str]]]:
    """Start `python -m bitsmith_api`; answers the process and its address."""
    children: list[Child] = []

    def start() -> tuple[Child, str]:
        port = servers.free_port()
        address = f"http://127.0.0.1:{port}"
        spec = ChildSpec(
            name=f"api-{port}",
            command=[sys.executable, "-m", "bitsmith_api"],
            is_ready=lambda: _answers(address),
            environment={
                "BITSMITH_API_PORT": str(port),
                "BITSMITH_API_KEY": KEY,
                "BITSMITH_API_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
                "BITSMITH_DATABASE_URL": database_settings.url.get_secret_value(),
                "BITSMITH_STORAGE_ENDPOINT": storage_settings.endpoint,
                "BITSMITH_STORAGE_ACCESS_KEY": storage_settings.access_key,
                "BITSMITH_STORAGE_SECRET_KEY": storage_settings.secret_key.get_secret_value(),
                "BITSMITH_STORAGE_SECURE": "false",
            },
        )
        child = Child(spec, tmp_path)
        child.start()
        children.append(child)
        child.wait_ready()
        return child, address

    yield start
    for child in children:
        child.stop()


@pytest.fixture
def served(serve: Callable[[], tuple[Child, str]]) -> str:
    return serve()[1]


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/livez").status_code == 200
    except httpx.TransportError:
        return False


def assert_problem(answer: Any, status: int, code: str, *pointers: str) -> dict[str, Any]:
    """The answer is a problem document of this kind, about these places; answers the document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["code"] == document["error"]["code"] == code
    assert document["error"]["message"] == document["detail"]
    assert document["request_id"] == answer.headers["x-request-id"]
    assert [place["pointer"] for place in document["errors"]] == list(pointers), json.dumps(document["errors"])
    return document


MANIFEST = Manifest(
    base_model="hf:org/tiny",
    spec_sha256="5" * 64,
    files=[
        FileEntry(path="model.safetensors", bytes=5, sha256="a" * 64),
        FileEntry(path="bf16/config.json", bytes=2, sha256="b" * 64),
    ],
    quantization=QuantizationFacts(
        scheme="layer-mix",
        bpw_codes=3.0,
        bpw_effective=3.5,
        quantized_weights=100,
        float_weights=10,
        quantized_bytes=44,
        model_bytes=64,
        float_bytes=220,
        layers=[],
    ),
    training=None,
    stages=[StageFacts(stage="quantizing", wall_s=1.5, peak_memory_bytes=1000)],
    scores=[
        Score(
            subject="quantized",
            task="perplexity",
            metric="perplexity",
            value=7.5,
            stderr=0.1,
            n=200,
            n_unit="tokens",
            higher_is_better=False,
            comparable_key="k",
        )
    ],
    environment=Environment(engine="0.1.0", torch="2.13.0", transformers="5.23.0", device="cpu", seed=0),
)
