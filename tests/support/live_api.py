"""`python -m bitsmith_api` as a process of its own, behind a socket, without scheduler, worker or serving."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from bitsmith_client.lab import servers
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_core.settings import DatabaseSettings, StorageSettings

KEY = "key-of-the-installation"


@contextmanager
def running_api(
    folder: Path, database: DatabaseSettings, storage: StorageSettings, **environment: str
) -> Iterator[str]:
    """Its address while it runs.

    Args:
        folder: for its log.
        environment: more settings.
    """
    port = servers.free_port()
    address = f"http://127.0.0.1:{port}"
    spec = ChildSpec(
        name=f"api-{port}",
        command=[sys.executable, "-m", "bitsmith_api"],
        is_ready=lambda: _is_alive(address),
        environment={
            "BITSMITH_API_PORT": str(port),
            "BITSMITH_API_KEY": KEY,
            "BITSMITH_DATABASE_URL": database.url.get_secret_value(),
            "BITSMITH_STORAGE_ENDPOINT": storage.endpoint,
            "BITSMITH_STORAGE_ACCESS_KEY": storage.access_key,
            "BITSMITH_STORAGE_SECRET_KEY": storage.secret_key.get_secret_value(),
            "BITSMITH_STORAGE_SECURE": "false",
            **environment,
        },
    )
    child = Child(spec, folder)
    child.start()
    try:
        child.wait_ready()
        yield address
    finally:
        child.stop()


def _is_alive(address: str) -> bool:
    try:
        return httpx.get(f"{address}/livez").status_code == 200
    except httpx.TransportError:
        return False
