"""MLflow's tracking server from another environment, with a database of its own on the same Postgres server.

Runs are filled as ours are, with what a fine-tuning run has at least: three parameters, two metrics, two tags.
"""

import base64
import json
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
from bitsmith_client.lab import servers
from bitsmith_client.lab.child import ChildSpec
from bitsmith_client.lab.state import LabConfig
from sqlalchemy import create_engine, text

from apis.bitsmith import PAGE, VERSIONS_OF_EACH, model_name, start
from apis.load import Make, Request, Server

BASE = "/api/2.0/mlflow"
DATABASE = "mlflow"
METRICS = 100  # of one log-batch

_FILL = (
    """
    INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri,
                      experiment_id)
    SELECT lpad(n::text, 32, '0'), 'run ' || n, 'UNKNOWN', 'bench', 'FINISHED', 1767225600000 + n * 60000::bigint,
           1767225600000 + n * 60000::bigint + 600000, 'active', 'mlflow-artifacts:/0/' || n, 0
    FROM generate_series(1, :runs) n
    """,
    """
    INSERT INTO params (key, value, run_uuid) SELECT key, '8', lpad(n::text, 32, '0')
    FROM generate_series(1, :runs) n, unnest(ARRAY['epochs', 'batch_size', 'learning_rate']) key
    """,
    """
    INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
    SELECT key, 0.5, 1767225600000, 100, false, lpad(n::text, 32, '0')
    FROM generate_series(1, :runs) n, unnest(ARRAY['loss', 'accuracy']) key
    """,
    """
    INSERT INTO tags (key, value, run_uuid) SELECT key, 'blue', lpad(n::text, 32, '0')
    FROM generate_series(1, :runs) n, unnest(ARRAY['mlflow.user', 'team']) key
    """,
    """
    INSERT INTO registered_models (name, creation_time, last_updated_time)
    SELECT 'model-' || lpad(n::text, 6, '0'), 1767225600000, 1767225600000 FROM generate_series(1, :models) n
    """,
    """
    INSERT INTO model_versions (name, version, creation_time, last_updated_time, current_stage, source, run_id, status)
    SELECT 'model-' || lpad(n::text, 6, '0'), number, 1767225600000, 1767225600000, 'None', 'mlflow-artifacts:/0/1',
           lpad(n::text, 32, '0'), 'READY'
    FROM generate_series(1, :models) n, generate_series(1, :each) number
    """,
)


@dataclass(frozen=True, slots=True)
class Tracking:
    server: Server
    version: str
    num_runs: int
    num_models: int

    def operations(self) -> dict[str, Make]:
        create = {"experiment_id": "0", "run_name": "bench", "tags": [{"key": "team", "value": "blue"}]}
        search = {"experiment_ids": ["0"], "max_results": PAGE}
        last = {**search, "page_token": page_token(max(1, self.num_runs - PAGE))}
        models = f"{BASE}/registered-models/search?max_results={PAGE}"
        last_models = f"{models}&page_token={quote(page_token(max(1, self.num_models - PAGE)))}"
        return {
            "submit a job / create a run": lambda n, drawn: post("runs/create", create),
            "get a job / run": lambda n, drawn: Request("GET", f"{BASE}/runs/get?run_id={self._some_run(drawn)}"),
            "list 100, first page": lambda n, drawn: post("runs/search", search),
            "list 100, last page": lambda n, drawn: post("runs/search", last),
            "models: 100, first page": lambda n, drawn: Request("GET", models),
            "models: 100, last page": lambda n, drawn: Request("GET", last_models),
            "models: get a version": lambda n, drawn: Request(
                "GET",
                f"{BASE}/model-versions/get?name={model_name(drawn.randint(1, self.num_models))}"
                f"&version={drawn.randint(1, VERSIONS_OF_EACH)}",
            ),
            f"log {METRICS} metrics": lambda n, drawn: post("runs/log-batch", self._metrics(n, drawn)),
        }

    def _some_run(self, drawn: random.Random) -> str:
        return f"{drawn.randint(1, self.num_runs):032d}"

    def _metrics(self, n: int, drawn: random.Random) -> dict[str, object]:
        rows = [
            {"key": "loss", "value": 1 / (i + 1), "timestamp": 1767225600000 + n * METRICS + i, "step": n * METRICS + i}
            for i in range(METRICS)
        ]
        return {"run_id": self._some_run(drawn), "metrics": rows}


def post(path: str, body: object) -> Request:
    return Request("POST", f"{BASE}/{path}", json.dumps(body).encode())


def page_token(offset: int) -> str:
    """As the server writes them: an offset."""
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


@contextmanager
def running(
    python: Path, config: LabConfig, folder: Path, *, workers: int, num_runs: int, num_versions: int
) -> Iterator[Tracking]:
    admin = create_engine(config.database_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {DATABASE}"))
    admin.dispose()
    own_url = f"{config.database_url.rpartition('/')[0]}/{DATABASE}"
    port = servers.free_port()
    store = own_url.replace("postgresql+psycopg://", "postgresql+psycopg2://")
    spec = ChildSpec(
        name="mlflow",
        command=[
            python, "-m", "mlflow", "server", "--backend-store-uri", store, "--default-artifact-root",
            str(folder / "artifacts"), "--host", servers.LOOPBACK, "--port", str(port), "--workers", str(workers),
        ],
        environment={"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "HOME": str(folder)},
        is_ready=lambda: _is_up(port),
        ready_within_s=300,
    )  # fmt: skip
    num_models = max(1, num_versions // VERSIONS_OF_EACH)
    with ExitStack() as undo:
        start(undo, spec, folder)
        engine = create_engine(own_url)
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in _FILL:
                sizes = {"runs": num_runs, "models": num_models, "each": VERSIONS_OF_EACH}
                connection.execute(text(statement), sizes)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
        engine.dispose()
        server = Server(servers.LOOPBACK, port, {"Content-Type": "application/json"})
        yield Tracking(server, version_of(python), num_runs, num_models)


def version_of(python: Path) -> str:
    asked = "from importlib.metadata import version; print(version('mlflow'))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://{servers.LOOPBACK}:{port}/health").status_code == 200
    except httpx.TransportError:
        return False
