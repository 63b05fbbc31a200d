"""What a snapshot holds, as backup.json says it."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bitsmith_backup.errors import BackupFailed

BACKUP_JSON, TABLES, OBJECTS, SNAPSHOTS = "backup.json", "tables", "objects", "snapshots"


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Table(_Fact):
    name: str
    columns: list[str]
    rows: int
    sha256: str  # of its file


class Object(_Fact):
    key: str
    bytes: int


class Backup(_Fact):
    format: int = 1
    created_at: datetime
    version: str  # of the software that made it
    revision: str  # of the database's schema
    tables: list[Table]  # those that others refer to first
    objects: list[Object]


def newest(folder: Path) -> Path:
    """The folder of the newest whole snapshot.

    Raises:
        BackupFailed: there is none.
    """
    found = sorted(path.parent for path in (folder / SNAPSHOTS).glob(f"*/{BACKUP_JSON}"))
    if not found:
        raise BackupFailed(f"there is no snapshot below {folder}; name the folder that `bitsmith backup` wrote")
    return found[-1]


def read(snapshot: Path) -> Backup:
    try:
        return Backup.model_validate_json((snapshot / BACKUP_JSON).read_bytes())
    except (OSError, ValidationError) as error:
        raise BackupFailed(f"{snapshot} is no snapshot that this version can read: {error}") from error


def object_path(folder: Path, key: str) -> Path:
    """Where an object's copy lies.

    Raises:
        BackupFailed: the key leads out of the folder.
    """
    path = folder / OBJECTS / key
    if not path.resolve().is_relative_to((folder / OBJECTS).resolve()):
        raise BackupFailed(f"the object {key!r} cannot be a file below {folder}")
    return path
