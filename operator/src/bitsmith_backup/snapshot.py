"""Taking a snapshot, looking at one, putting one back."""

import shutil
from importlib.metadata import version
from pathlib import Path

from bitsmith_core import migrations
from bitsmith_core.bundle import file_sha256
from bitsmith_core.clock import utc_now
from bitsmith_core.log import get_logger
from bitsmith_core.storage import ObjectStore

from bitsmith_backup import objects, tables
from bitsmith_backup.contents import BACKUP_JSON, SNAPSHOTS, TABLES, Backup, newest, read
from bitsmith_backup.errors import BackupFailed

log = get_logger()

TELL_EVERY = 1000  # objects


def take(url: str, store: ObjectStore, folder: Path) -> str:
    """Everything as it is now; the platform may go on meanwhile."""
    created_at = utc_now()
    name = created_at.strftime("%Y%m%dT%H%M%S.%fZ")
    part, whole = folder / SNAPSHOTS / f"{name}.part", folder / SNAPSHOTS / name
    part.mkdir(parents=True)
    try:
        with tables.connected(url) as connection:
            revision, exported = tables.export(connection, part)
        found = objects.export(store, folder, on_progress=_tell)
        backup = Backup(
            created_at=created_at, version=version("bitsmith"), revision=revision, tables=exported, objects=found
        )
        (part / BACKUP_JSON).write_text(backup.model_dump_json(indent=1))
        part.rename(whole)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return f"{whole}: {_size(backup)}"


def put_back(url: str, store: ObjectStore, folder: Path, name: str | None) -> str:
    """The snapshot into an empty database and store, then on to this version's schema.

    Raises:
        BackupFailed: the database is in use, or the snapshot is not whole, or newer than this version.
    """
    chosen = _chosen(folder, name)
    backup = read(chosen)
    objects.check(folder, backup.objects)
    _migrate(url, backup.revision)
    with tables.connected(url) as connection:
        tables.empty(connection, backup.tables)
        # Objects first: a platform that is started too early sees rows only when what they name is there.
        objects.restore(store, folder, backup.objects, on_progress=_tell)
        tables.restore(connection, chosen, backup.tables)
    _migrate(url, "head")
    return f"restored {chosen.name}: {_size(backup)}"


def verify(folder: Path, name: str | None) -> str:
    """Whether everything that the snapshot needs is there and whole.

    Raises:
        BackupFailed: naming what is not.
    """
    chosen = _chosen(folder, name)
    backup = read(chosen)
    for table in backup.tables:
        if file_sha256(chosen / TABLES / f"{table.name}.copy") != table.sha256:
            raise BackupFailed(f"table {table.name} of {chosen.name} is not what was written")
    objects.check(folder, backup.objects)
    return f"{chosen.name} is whole: {_size(backup)}"


def _chosen(folder: Path, name: str | None) -> Path:
    return newest(folder) if name is None else folder / SNAPSHOTS / name


def _migrate(url: str, revision: str) -> None:
    try:
        migrations.upgrade(url, revision=revision)
    except migrations.MigrationFailed as error:
        advice = "a snapshot of a newer version needs that version"
        raise BackupFailed(f"the schema {revision} cannot be made; {advice}. {str(error)[-500:]}") from error


def _size(backup: Backup) -> str:
    rows, size_bytes = sum(table.rows for table in backup.tables), sum(found.bytes for found in backup.objects)
    return f"{rows} rows of {len(backup.tables)} tables, {len(backup.objects)} objects, {size_bytes} bytes"


def _tell(done: int, size_bytes: int) -> None:
    if done % TELL_EVERY == 0:
        log.info("objects.done", objects=done, bytes=size_bytes)
