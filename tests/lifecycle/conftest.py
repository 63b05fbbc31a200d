"""The platform in small of the worker's tests, the API's process, and servers that come back after each test."""

from collections.abc import Iterator

import pytest
from bitsmith_client.lab.child import Child
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable, StoreUnavailable
from bitsmith_core.storage import S3Store

from tests.api.conftest import serve, served  # noqa: F401  # fixtures
from tests.worker.conftest import platform, until  # noqa: F401


@pytest.fixture
def postgres(server_processes: dict[str, Child], database: Database) -> Iterator[Child]:
    """To be killed and started again."""

    def answers() -> bool:
        try:
            database.ping()
        except DatabaseUnavailable:
            return False
        return True

    yield from _brought_back(server_processes["postgres"])
    until(answers, what="Postgres")


@pytest.fixture
def seaweedfs(server_processes: dict[str, Child], store: S3Store) -> Iterator[Child]:
    """To be killed and started again."""

    def answers() -> bool:
        try:
            store.ensure_bucket()
        except StoreUnavailable:
            return False
        return True

    yield from _brought_back(server_processes["seaweedfs"])
    until(answers, what="SeaweedFS")


def _brought_back(server: Child) -> Iterator[Child]:
    yield server
    if not server.is_running():
        server.start()
    server.wait_ready()
