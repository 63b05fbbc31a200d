"""Bitsmith's API as the lab runs it: one process, Postgres, Valkey and SeaweedFS; no worker takes the jobs."""

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from bitsmith_client.lab import programs, servers
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_client.lab.state import LabConfig, LabState
from bitsmith_client.sdk import Bitsmith as Client
from bitsmith_core import jobs, registry
from bitsmith_core.bundle import Environment, FileEntry, LayerBits, Manifest, QuantizationFacts, Score
from bitsmith_core.db import Database
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.settings import DatabaseSettings
from pydantic import SecretStr
from sqlalchemy import text

from apis.load import Make, Request, Server

PAGE = 100
WAITING = 1000
VERSIONS_OF_EACH = 10
EXAMPLES = b'{"prompt": "2 + 2?", "completion": "4"}\n' * 100
UNLIMITED = {"BITSMITH_API_REQUESTS_PER_MINUTE": "100000000", "BITSMITH_API_MAX_OPEN_JOBS": "100000000"}

_COPY_JOBS = """
INSERT INTO jobs (id, project_id, spec, spec_sha256, base_model, training_file, validation_file, status, metadata,
                  attempt_no, last_seq, created_at, not_before, started_at, finished_at)
SELECT 'ftjob-' || lpad(n::text, 26, '0'), project_id, spec, spec_sha256, base_model, training_file, validation_file,
       'succeeded', jsonb_build_object('team', 'team ' || n % 20), 1, 3, at, at, at, at + interval '10 minutes'
FROM jobs, (SELECT n, timestamptz '2026-01-01' + n * interval '1 minute' AS at FROM generate_series(1, :count) n) times
WHERE id = :pattern
"""
_ADD_ATTEMPTS = """
INSERT INTO attempts (job_id, number, worker, started_at, ended_at, outcome, gpu_seconds)
SELECT id, 1, 'gpu-0', started_at, finished_at, 'succeeded', 600 FROM jobs WHERE id < 'ftjob-00000001'
"""
_ADD_EVENTS = """
INSERT INTO job_events (job_id, seq, type, level, message, data)
SELECT id, seq, 'message', 'info', 'Something happened.', '{"event": "note"}' FROM jobs, generate_series(1, 3) seq
WHERE id < 'ftjob-00000001'
"""
_COPY_MODELS = """
INSERT INTO models (id, project_id, name, base_model)
SELECT 'model-' || lpad(n::text, 26, '0'), project_id, 'model-' || lpad(n::text, 6, '0'), base_model
FROM models, generate_series(1, :count) n WHERE name = :pattern
"""
_COPY_VERSIONS = """
INSERT INTO versions (model_id, number, is_newest, job_id, manifest_sha256, manifest, bytes, weights_bytes, subject,
                      scheme, bpw_codes, bpw_effective)
SELECT 'model-' || lpad(n::text, 26, '0'), i, i = :each, 'ftjob-' || lpad((n + :count * (i - 1))::text, 26, '0'),
       manifest_sha256, manifest, bytes, weights_bytes, subject, scheme, bpw_codes, bpw_effective
FROM versions, generate_series(1, :count) n, generate_series(1, :each) i WHERE job_id = :pattern
"""
_COPY_FILES = """
INSERT INTO version_files (version_id, path, bytes, sha256, object_key)
SELECT versions.id, path, files.bytes, sha256, object_key
FROM version_files files, versions WHERE version_id = :pattern AND versions.id <> :pattern
"""
_COPY_EVALS = """
INSERT INTO evals (id, version_id, job_id, engine, environment)
SELECT 'eval-' || lpad(versions.id::text, 26, '0'), versions.id, versions.job_id, engine, environment
FROM evals, versions WHERE version_id = :pattern AND versions.id <> :pattern
"""
_COPY_SCORES = """
INSERT INTO eval_results (eval_id, version_id, subject, task, metric, value, stderr, n, n_unit, higher_is_better,
                          comparable_key, is_headline)
SELECT 'eval-' || lpad(versions.id::text, 26, '0'), versions.id, scores.subject, task, metric, value, stderr, n, n_unit,
       higher_is_better, comparable_key, is_headline
FROM eval_results scores, versions WHERE version_id = :pattern AND versions.id <> :pattern
"""


@dataclass(frozen=True, slots=True)
class Platform:
    server: Server
    client: Client
    database: Database
    config: LabConfig
    request: dict[str, object]  # a job's
    num_jobs: int
    num_models: int

    def operations(self) -> dict[str, Make]:
        last = f"&after={job_id(PAGE + 1)}"  # newest first
        last_models = f"&after={model_name(max(1, self.num_models - PAGE))}"
        body = json.dumps(self.request).encode()
        return {
            "submit a job / create a run": lambda n, drawn: Request("POST", "/v1/fine_tuning/jobs", body),
            "get a job / run": lambda n, drawn: Request("GET", f"/v1/fine_tuning/jobs/{self._some_job(drawn)}"),
            "list 100, first page": lambda n, drawn: Request("GET", f"/v1/fine_tuning/jobs?limit={PAGE}"),
            "list 100, last page": lambda n, drawn: Request("GET", f"/v1/fine_tuning/jobs?limit={PAGE}{last}"),
            "models: 100, first page": lambda n, drawn: Request("GET", f"/v1/models?limit={PAGE}"),
            "models: 100, last page": lambda n, drawn: Request("GET", f"/v1/models?limit={PAGE}{last_models}"),
            "models: get a version": lambda n, drawn: Request(
                "GET", f"/v1/models/{self._some_model(drawn)}/versions/{drawn.randint(1, VERSIONS_OF_EACH)}"
            ),
        }

    def get_waiting(self) -> Make:
        """Jobs of a long queue; they are there until `empty_queue`."""
        waiting = [self.client.jobs.create(self.request).id for _ in range(WAITING)]
        return lambda n, drawn: Request("GET", f"/v1/fine_tuning/jobs/{drawn.choice(waiting)}")

    def empty_queue(self) -> None:
        with self.database.transaction() as tx:
            tx.execute(text("UPDATE jobs SET status = 'cancelled', finished_at = now() WHERE status = 'queued'"))

    def claimed(self) -> jobs.Lease:
        """A job that runs, for somebody to write its events."""
        job = JobId(self.client.jobs.create(self.request).id)
        with self.database.transaction() as tx:
            lease = jobs.claim(tx, job, worker="bench", ttl=timedelta(hours=1))
        assert lease is not None
        return lease

    def _some_job(self, drawn: random.Random) -> str:
        return job_id(drawn.randint(1, self.num_jobs))

    def _some_model(self, drawn: random.Random) -> str:
        return model_name(drawn.randint(1, self.num_models))


def job_id(number: int) -> str:
    return f"ftjob-{number:026d}"


def model_name(number: int) -> str:
    return f"model-{number:06d}"


@contextmanager
def running(folder: Path, *, num_jobs: int, num_versions: int) -> Iterator[Platform]:
    state = LabState(folder)
    state.prepare()
    config = state.load_or_make().with_free_ports()
    state.save(config)
    with ExitStack() as undo:
        for spec in (
            servers.postgres(config.postgres_folder, port=config.postgres_port, password=config.postgres_password),
            servers.valkey(folder / "valkey", port=config.valkey_port, password=config.valkey_password),
            servers.seaweedfs(
                folder / "s3", port=config.s3_port, access_key=config.s3_access_key, secret_key=config.s3_secret_key
            ),
        ):
            start(undo, spec, state.logs)
        programs.migrate(config)
        programs.ensure_bucket(config)
        api = programs.api(config)
        start(undo, replace(api, environment={**api.environment, **UNLIMITED}), state.logs)
        client = undo.enter_context(Client(config.url, config.api_key))
        database = Database(DatabaseSettings(url=SecretStr(config.database_url)))
        undo.callback(database.close)
        request: dict[str, object] = {"model": "hf:org/tiny"}
        for name in ("training", "validation"):
            file = folder / f"{name}.jsonl"
            file.write_bytes(EXAMPLES)
            request[f"{name}_file"] = client.files.upload(file).id
        num_models = max(1, num_versions // VERSIONS_OF_EACH)
        fill(client, database, request, num_jobs=max(num_jobs, num_models * VERSIONS_OF_EACH), num_models=num_models)
        headers = {"Authorization": f"Bearer {config.api_key}", "Content-Type": "application/json"}
        yield Platform(
            Server(servers.LOOPBACK, config.api_port, headers), client, database, config, request, num_jobs, num_models
        )


def start(undo: ExitStack, spec: ChildSpec, logs: Path) -> None:
    child = Child(spec, logs)
    undo.callback(child.stop)
    child.start()
    child.wait_ready()


def fill(client: Client, database: Database, request: dict[str, object], *, num_jobs: int, num_models: int) -> None:
    """One job and one version are real; the others are copies of them with other names and times."""
    job = JobId(client.jobs.create(request).id)
    with database.transaction() as tx:
        lease = jobs.claim(tx, job, worker="bench", ttl=timedelta(hours=1))
        assert lease is not None
        registry.blobs.hold(tx, manifest().files)
        version = registry.publish(tx, project=DEFAULT_PROJECT, name="pattern", job_id=job, manifest=manifest())
        jobs.finish(tx, lease, result="pattern@1")
    with database.transaction() as tx:
        tx.execute(text(_COPY_JOBS), {"count": num_jobs, "pattern": job})
        tx.execute(text(_ADD_ATTEMPTS))
        tx.execute(text(_ADD_EVENTS))
        tx.execute(text(_COPY_MODELS), {"count": num_models, "pattern": "pattern"})
        tx.execute(text(_COPY_VERSIONS), {"count": num_models, "each": VERSIONS_OF_EACH, "pattern": job})
        for statement in (_COPY_FILES, _COPY_EVALS, _COPY_SCORES):
            tx.execute(text(statement), {"pattern": version.id})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def manifest() -> Manifest:
    """Of a model of half a billion weights: 24 layers of 7 linear ones, 8 scores."""
    layers = [
        LayerBits(name=f"model.layers.{n}.{part}", bits=2 + (n + i) % 3, group_size=64, weights=10**6, sensitivity=0.01)
        for n in range(24)
        for i, part in enumerate(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    ]
    return Manifest(
        base_model="hf:org/tiny",
        spec_sha256="5" * 64,
        files=[FileEntry(path=f"model-{n}.safetensors", bytes=10**8, sha256=f"{n:064x}") for n in range(8)],
        quantization=QuantizationFacts(
            scheme="layer-mix",
            bpw_codes=2.5,
            bpw_effective=2.8,
            quantized_weights=168 * 10**6,
            float_weights=10**6,
            quantized_bytes=58 * 10**6,
            model_bytes=60 * 10**6,
            float_bytes=340 * 10**6,
            layers=layers,
        ),
        training=None,
        stages=[],
        scores=[
            Score(
                subject="quantized", task=f"task-{n}", metric="accuracy", value=0.5, stderr=0.01, n=1000,
                n_unit="questions", higher_is_better=True, comparable_key="k",
            )
            for n in range(8)
        ],
        environment=Environment(engine="0.1.0", torch="2.13.0", transformers="5.23.0", device="cpu", seed=0),
    )  # fmt: skip
