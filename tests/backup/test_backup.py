"""A backup puts a whole installation into a folder, and a restore puts it back somewhere else, to the last byte."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import psycopg
import pytest
from bitsmith_backup import contents, snapshot
from bitsmith_backup.errors import BackupFailed
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.delivery import audit
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import S3Store
from sqlalchemy import make_url

from tests.conftest import add_file

OBJECTS = {"files/sha256/00/a": b"one example", "blobs/01/b": b"weights" * 1000, "jobs/x/logs/0": b"line"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A database and a store."""

    url: str
    store: S3Store

    @property
    def plain_url(self) -> str:
        return self.url.replace("postgresql+psycopg://", "postgresql://")


@pytest.fixture
def source(database: Database, database_settings: DatabaseSettings, store: S3Store) -> Iterator[Place]:
    """An installation that has worked: a job with a history, an audit trail, objects."""
    with database.transaction() as tx:
        spec = JobSpec(model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx, "v.jsonl"))
        for _ in range(3):
            job = jobs.submit(tx, spec.model_copy(update={"seed": 7}), project=DEFAULT_PROJECT)
            audit.note(tx, project=DEFAULT_PROJECT, actor="key-x", action="job.created", target=job.id, request_id="r")
        jobs.cancel(tx, job.id)
    for key, content in OBJECTS.items():
        store.put_stream(key, BytesIO(content), size_bytes=len(content))
    yield Place(url=database_settings.url.get_secret_value(), store=store)
    for prefix in ("files/", "blobs/", "jobs/"):
        for found in list(store.list(prefix)):
            store.delete(found.key)


@pytest.fixture
def target(database_settings: DatabaseSettings, storage_settings: StorageSettings) -> Iterator[Place]:
    """An empty database and an empty bucket."""
    shared = make_url(database_settings.url.get_secret_value())
    admin = shared.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS restored")
        connection.execute("CREATE DATABASE restored")
    store = S3Store(storage_settings.model_copy(update={"bucket": "restored"}))
    store.ensure_bucket()
    yield Place(url=shared.set(database="restored").render_as_string(hide_password=False), store=store)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE restored WITH (FORCE)")
    for found in list(store.list("")):
        store.delete(found.key)


def rows(place: Place) -> dict[str, tuple[int, str]]:
    """How many rows each table has, and a digest of them as Postgres writes them."""
    with psycopg.connect(place.plain_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
        found = {}
        for (name,) in tables:
            query = f"SELECT count(*), md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {name} t"
            count, digest = connection.execute(query).fetchone() or (0, "")
            found[name] = (count, digest)
    return found


def objects(place: Place) -> dict[str, bytes]:
    return {
        found.key: place.store.read(found.key, offset=0, length=found.bytes)
        for prefix in ("files/", "blobs/", "jobs/")
        for found in place.store.list(prefix)
    }


def test_everything_comes_back_to_the_last_row_and_byte(source: Place, target: Place, tmp_path: Path) -> None:
    snapshot.take(source.url, source.store, tmp_path)
    snapshot.put_back(target.url, target.store, tmp_path, None)
    assert rows(target) == rows(source)
    assert rows(target)["jobs"][0] == 3
    assert objects(target) == objects(source) == OBJECTS


def test_a_restored_installation_goes_on(source: Place, target: Place, tmp_path: Path) -> None:
    """Numbers continue where they were, and triggers work: another row meets none of the old ones."""
    snapshot.take(source.url, source.store, tmp_path)
    snapshot.put_back(target.url, target.store, tmp_path, None)
    database = Database(DatabaseSettings.model_validate({"url": target.url}))
    with database.transaction() as tx:
        spec = JobSpec(model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx, "v.jsonl"))
        job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
        audit.note(tx, project=DEFAULT_PROJECT, actor="key-x", action="job.created", target=job.id, request_id="r")
        assert len(audit.page(tx, project=DEFAULT_PROJECT, limit=10)) == 4
    database.close()


def test_what_comes_after_the_snapshot_is_not_in_it(source: Place, target: Place, tmp_path: Path) -> None:
    snapshot.take(source.url, source.store, tmp_path)
    before = rows(source)
    with psycopg.connect(source.plain_url) as connection:
        connection.execute("UPDATE jobs SET priority = 50")
    snapshot.put_back(target.url, target.store, tmp_path, None)
    assert rows(target) == before


def test_a_second_snapshot_copies_only_new_objects(source: Place, tmp_path: Path) -> None:
    snapshot.take(source.url, source.store, tmp_path)
    copies = {key: contents.object_path(tmp_path, key).stat().st_mtime_ns for key in OBJECTS}
    source.store.put_stream("blobs/02/c", BytesIO(b"new"), size_bytes=3)
    snapshot.take(source.url, source.store, tmp_path)
    assert {key: contents.object_path(tmp_path, key).stat().st_mtime_ns for key in OBJECTS} == copies
    assert contents.object_path(tmp_path, "blobs/02/c").read_bytes() == b"new"
    assert len(list((tmp_path / "snapshots").iterdir())) == 2


def test_a_database_in_use_is_not_touched(source: Place, tmp_path: Path) -> None:
    snapshot.take(source.url, source.store, tmp_path)
    before = rows(source)
    with pytest.raises(BackupFailed, match="the database has rows in jobs; restore into a new one"):
        snapshot.put_back(source.url, source.store, tmp_path, None)
    assert rows(source) == before


@pytest.mark.parametrize("damage", ["object lost", "object cut", "table changed"])
def test_a_damaged_snapshot_is_refused_before_anything_is_written(
    source: Place, target: Place, tmp_path: Path, damage: str
) -> None:
    snapshot.take(source.url, source.store, tmp_path)
    copy = contents.object_path(tmp_path, "blobs/01/b")
    match damage:
        case "object lost":
            copy.unlink()
        case "object cut":
            copy.write_bytes(b"w")
        case _:
            table = contents.newest(tmp_path) / "tables" / "jobs.copy"
            table.write_bytes(table.read_bytes().replace(b"hf:org/tiny", b"hf:org/tinx"))
    with pytest.raises(BackupFailed, match=r"blobs/01/b is missing or not whole|jobs.* is not what was written"):
        snapshot.verify(tmp_path, None)
    with pytest.raises(BackupFailed, match=r"blobs/01/b is missing or not whole|jobs.* is not what was written"):
        snapshot.put_back(target.url, target.store, tmp_path, None)
    assert rows(target).get("jobs", (0, ""))[0] == 0


def test_a_snapshot_of_a_newer_schema_is_refused(source: Place, target: Place, tmp_path: Path) -> None:
    snapshot.take(source.url, source.store, tmp_path)
    path = contents.newest(tmp_path) / "backup.json"
    newer = contents.read(path.parent).model_copy(update={"revision": "9999"})
    path.write_text(newer.model_dump_json())
    with pytest.raises(BackupFailed, match=r"a snapshot of a newer version needs that version(?s:.*)9999"):
        snapshot.put_back(target.url, target.store, tmp_path, None)


def test_an_unfinished_snapshot_is_none(source: Place, tmp_path: Path) -> None:
    (tmp_path / "snapshots" / "20260101T000000.0Z.part").mkdir(parents=True)
    with pytest.raises(BackupFailed, match="there is no snapshot"):
        snapshot.verify(tmp_path, None)


def test_the_command_does_it_and_says_so(
    source: Place, target: Place, storage_settings: StorageSettings, tmp_path: Path
) -> None:
    def run(*arguments: str, url: str, bucket: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "BITSMITH_DATABASE_URL": url,
            "BITSMITH_STORAGE_ENDPOINT": storage_settings.endpoint,
            "BITSMITH_STORAGE_ACCESS_KEY": storage_settings.access_key,
            "BITSMITH_STORAGE_SECRET_KEY": storage_settings.secret_key.get_secret_value(),
            "BITSMITH_STORAGE_SECURE": "false",
            "BITSMITH_STORAGE_BUCKET": bucket,
        }
        command = [sys.executable, "-m", "bitsmith_client", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    taken = run("backup", str(tmp_path), url=source.url, bucket=storage_settings.bucket)
    assert taken.returncode == 0, taken.stderr
    assert "3 objects" in taken.stdout
    restored = run("restore", str(tmp_path), url=target.url, bucket="restored")
    assert restored.returncode == 0, restored.stderr
    assert rows(target) == rows(source)
    again = run("restore", str(tmp_path), url=target.url, bucket="restored")
    assert again.returncode == 1
    assert "restore into a new one" in again.stderr
