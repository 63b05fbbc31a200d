"""Real servers for every test that needs one: Postgres, Valkey and an S3 server from wheels, once per run.

`tx` is a transaction that is rolled back. `database` is for what must really commit; it is emptied afterwards.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bitsmith_client.lab import servers
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_core import files, migrations
from bitsmith_core.db import Database, Tx
from bitsmith_core.ids import DEFAULT_PROJECT, FileId
from bitsmith_core.queue import Courier
from bitsmith_core.settings import DatabaseSettings, QueueSettings, StorageSettings
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import S3Store
from pydantic import SecretStr
from sqlalchemy import text

from tests.lifecycle.rows import note_rows
from tests.lifecycle.rows import pytest_configure as pytest_configure  # hooks
from tests.lifecycle.rows import pytest_generate_tests as pytest_generate_tests
from tests.lifecycle.rows import pytest_terminal_summary as pytest_terminal_summary

ROOT = Path(__file__).parents[1]
_GROWN_BYTES = 1 << 16  # of a table: dead rows would make its scans longer
SLOW_FIRST = ("openai", "e2e", "lifecycle", "worker", "client/test_lab.py")
"""Whole platforms: begun first, so that of several processes none is left with them at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    note_rows(items)
    slow_first = {ROOT / "tests" / name: place for place, name in enumerate(SLOW_FIRST)}
    items.sort(key=lambda item: min(slow_first.get(place, len(slow_first)) for place in (item.path, item.path.parent)))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees this machine's own platform settings."""
    for name in [name for name in os.environ if name.startswith("BITSMITH_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    # Not pytest's tmp_path: as root the Postgres account must be able to enter every parent folder.
    folder = Path(tempfile.mkdtemp(prefix="bitsmith-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server_processes() -> dict[str, Child]:
    """Those that run, for tests that kill, freeze and start them again; they leave them running."""
    return {}


def _running(spec: ChildSpec, folder: Path, processes: dict[str, Child]) -> Iterator[Child]:
    child = processes[spec.name] = Child(spec, folder)
    child.start()
    try:
        child.wait_ready()
        yield child
    finally:
        child.stop()


@pytest.fixture(scope="session")
def database_settings(server_folder: Path, server_processes: dict[str, Child]) -> Iterator[DatabaseSettings]:
    """A migrated Postgres."""
    port, password = servers.free_port(), secrets.token_urlsafe(12)
    spec = servers.postgres(server_folder / "postgres", port=port, password=password)
    for _ in _running(spec, server_folder, server_processes):
        url = f"postgresql+psycopg://{servers.USER}:{password}@{servers.LOOPBACK}:{port}/postgres"
        migrations.upgrade(url)
        yield DatabaseSettings(url=SecretStr(url))


@pytest.fixture(scope="session")
def queue_settings(server_folder: Path, server_processes: dict[str, Child]) -> Iterator[QueueSettings]:
    port, password = servers.free_port(), secrets.token_urlsafe(12)
    spec = servers.valkey(server_folder / "valkey", port=port, password=password)
    for _ in _running(spec, server_folder, server_processes):
        yield QueueSettings(url=SecretStr(f"redis://:{password}@{servers.LOOPBACK}:{port}/0"))


@pytest.fixture(scope="session")
def storage_settings(server_folder: Path, server_processes: dict[str, Child]) -> Iterator[StorageSettings]:
    port, secret = servers.free_port(), secrets.token_urlsafe(12)
    spec = servers.seaweedfs(server_folder / "s3", port=port, access_key="test", secret_key=secret)
    for _ in _running(spec, server_folder, server_processes):
        yield StorageSettings(
            endpoint=f"{servers.LOOPBACK}:{port}", access_key="test", secret_key=SecretStr(secret), secure=False
        )


@pytest.fixture(scope="session")
def _database(database_settings: DatabaseSettings) -> Iterator[Database]:
    database = Database(database_settings)
    yield database
    database.close()


@pytest.fixture
def database(_database: Database) -> Iterator[Database]:
    yield _database
    _empty(_database)


def _empty(database: Database) -> None:
    """As the migrations left it. Deleting the few rows of a test takes a tenth of what truncating 29 tables takes."""
    with database.transaction() as tx:
        sizes = tx.execute(
            text(
                "SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace "
                "AND relkind = 'r' AND relname <> 'alembic_version'"
            )
        ).all()
        grown = [table for table, size in sizes if size > _GROWN_BYTES]
        if grown:
            tx.execute(text(f"TRUNCATE {', '.join(grown)} RESTART IDENTITY CASCADE"))
        # Neither foreign keys nor triggers, so that tables go in any order and those that only grow go, too.
        tx.execute(text("SET LOCAL session_replication_role = replica"))
        for table, size in sizes:
            if 0 < size <= _GROWN_BYTES:
                tx.execute(text(f"DELETE FROM {table}"))
        tx.execute(text("SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"))
        tx.execute(text("INSERT INTO projects (id, name) VALUES (:id, 'default')"), {"id": DEFAULT_PROJECT})


@pytest.fixture
def tx(_database: Database) -> Iterator[Tx]:
    class RollBack(Exception):
        pass

    try:
        with _database.transaction() as transaction:
            yield transaction
            raise RollBack
    except RollBack:
        pass


@pytest.fixture(scope="session")
def store(storage_settings: StorageSettings) -> S3Store:
    store = S3Store(storage_settings)
    store.ensure_bucket()
    return store


@pytest.fixture(scope="session")
def courier(queue_settings: QueueSettings) -> Iterator[Courier]:
    courier = Courier(queue_settings)
    yield courier
    courier.close()


def add_file(tx: Tx, name: str = "training.jsonl") -> FileId:
    """A file's row, for tests that need no bytes."""
    return files.add(
        tx, project=DEFAULT_PROJECT, filename=name, purpose="fine-tune", size_bytes=1, sha256="0" * 64, examples=1
    ).id


@pytest.fixture
def spec(tx: Tx) -> JobSpec:
    """The smallest valid request, its files being rows of `tx`."""
    return JobSpec(
        model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx, "validation.jsonl"), suffix="test"
    )
