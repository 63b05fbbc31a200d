"""Our own processes: how the API, the scheduler and the worker are run against a lab's servers."""

import sys
from collections.abc import Callable, Mapping

from bitsmith_core import migrations
from bitsmith_core.settings import StorageSettings
from bitsmith_core.storage import S3Store
from pydantic import SecretStr

from bitsmith_client.lab.child import ChildSpec, StartFailed
from bitsmith_client.lab.state import LabConfig, LabState
from bitsmith_client.sdk import Bitsmith, SdkError

LEASE_S = 15  # short: everything is on one machine, and a dead worker's job should go on soon
HEARTBEAT_S = 3
ENGINE_STOP_S = 10
SERVING_STOP_S = 20.0  # answers under way may finish
WORKER = "lab"  # the same after each restart, so that nobody waits for one that will not come back


def api(config: LabConfig) -> ChildSpec:
    own = {
        "BITSMITH_API_PORT": str(config.api_port),
        "BITSMITH_API_KEY": config.api_key,
        "BITSMITH_SERVING_URL": config.serving_url,
        "BITSMITH_SERVING_TOKEN": config.serving_token,
    }
    return _program(
        "api", "bitsmith_api", environment(config) | own, is_ready=lambda: _is_ready(config), stop_within_s=25.0
    )


def scheduler(config: LabConfig) -> ChildSpec:
    return _program("scheduler", "bitsmith_scheduler", environment(config))


def worker(config: LabConfig, state: LabState) -> ChildSpec:
    own = {
        "BITSMITH_WORKER_NAME": WORKER,
        "BITSMITH_WORKER_SCRATCH": str(state.scratch),
        "BITSMITH_WORKER_MODELS": str(state.models),
        "BITSMITH_WORKER_LEASE_S": str(LEASE_S),
        "BITSMITH_WORKER_HEARTBEAT_S": str(HEARTBEAT_S),
        "BITSMITH_WORKER_ENGINE_STOP_S": str(ENGINE_STOP_S),
    }
    return _program(
        "worker",
        "bitsmith_worker",
        environment(config) | own,
        is_ready=lambda: live_workers(config) > 0,
        stop_within_s=ENGINE_STOP_S + 15.0,
    )


def serving(config: LabConfig, state: LabState) -> ChildSpec:
    own = {
        "BITSMITH_SERVING_PORT": str(config.serving_port),
        "BITSMITH_SERVING_TOKEN": config.serving_token,
        "BITSMITH_SERVING_CACHE": str(state.serving),
    }
    return _program(
        "serving",
        "bitsmith_serving",
        environment(config) | own,
        is_ready=lambda: _is_up(config.serving_url, config.serving_token),
        stop_within_s=SERVING_STOP_S,
    )


def environment(config: LabConfig) -> dict[str, str]:
    """Where the servers are."""
    return {
        "BITSMITH_DATABASE_URL": config.database_url,
        "BITSMITH_QUEUE_URL": config.queue_url,
        "BITSMITH_STORAGE_ENDPOINT": config.s3_endpoint,
        "BITSMITH_STORAGE_ACCESS_KEY": config.s3_access_key,
        "BITSMITH_STORAGE_SECRET_KEY": config.s3_secret_key,
        "BITSMITH_STORAGE_SECURE": "false",
    }


def migrate(config: LabConfig) -> None:
    """Bring the database to the newest schema.

    Raises:
        StartFailed: with what Alembic said.
    """
    try:
        migrations.upgrade(config.database_url)
    except migrations.MigrationFailed as error:
        raise StartFailed(f"the database could not be migrated:\n{error}") from error


def ensure_bucket(config: LabConfig) -> None:
    settings = StorageSettings(
        endpoint=config.s3_endpoint,
        access_key=config.s3_access_key,
        secret_key=SecretStr(config.s3_secret_key),
        secure=False,
    )
    S3Store(settings).ensure_bucket()


def live_workers(config: LabConfig) -> int:
    """How many workers the platform has heard of lately, by its own metrics."""
    try:
        with _client(config) as bitsmith:
            return workers_in(bitsmith.metrics())
    except SdkError:
        return 0


def workers_in(metrics: str) -> int:
    for line in metrics.splitlines():
        name, _, value = line.rpartition(" ")
        if name.partition("{")[0] == "bitsmith_workers_live":
            return int(float(value))
    return 0


def _is_ready(config: LabConfig) -> bool:
    return _is_up(config.url, config.api_key)


def _is_up(url: str, key: str) -> bool:
    with Bitsmith(url, key) as program:
        return program.is_ready()


def _client(config: LabConfig) -> Bitsmith:
    return Bitsmith(config.url, config.api_key)


def _program(
    name: str,
    module: str,
    environment: Mapping[str, str],
    *,
    is_ready: Callable[[], bool] = lambda: True,
    stop_within_s: float = 10.0,
) -> ChildSpec:
    return ChildSpec(
        name=name,
        # -P: the folder we are started in must not shadow a module
        command=[sys.executable, "-P", "-m", module],
        environment={**environment, "PYTHONUNBUFFERED": "1"},
        is_ready=is_ready,
        stop_within_s=stop_within_s,
    )
