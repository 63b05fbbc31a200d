"""The bytes of files: each under its digest, once, as long as a live row names it.

Bytes without a row are garbage, a row without bytes is a lie. So bytes come first and rows second; and what sweeps
garbage decides under the lock that `repository.add` takes, or it could take away bytes that a row is just coming for.
"""

from datetime import timedelta
from pathlib import Path

from bitsmith_core.bundle import file_sha256
from bitsmith_core.clock import utc_now
from bitsmith_core.db import Database
from bitsmith_core.db.models import File
from bitsmith_core.errors import StoreUnavailable
from bitsmith_core.files import repository
from bitsmith_core.files.repository import PREFIX, object_key
from bitsmith_core.storage import ObjectStore

_LOOKED_UP_AT_ONCE = 500


def store_bytes(store: ObjectStore, path: Path) -> str:
    """Put the file under its digest, unless the store has it; answers the digest. Safe to repeat."""
    sha256 = file_sha256(path)
    key = object_key(sha256)
    if store.stat(key) is None:
        store.put_file(key, path)
    return sha256


def check_stored(store: ObjectStore, file: File) -> None:
    """After `add`, before its commit: whether the bytes that were found a moment ago are still there.

    Raises:
        StoreUnavailable: they were swept away in between; the client sends them again.
    """
    if store.stat(file.object_key) is None:
        raise StoreUnavailable(f"{file.object_key} was swept away while a row for it was written")


def sweep(database: Database, store: ObjectStore, *, older_than: timedelta) -> int:
    """Delete objects that no live file names; answers how many.

    Args:
        older_than: since the object was written: younger ones may still be waiting for their row.
    """
    until = utc_now() - older_than
    old = [found.key for found in store.list(PREFIX) if found.modified_at is not None and found.modified_at < until]
    swept = 0
    for start in range(0, len(old), _LOOKED_UP_AT_ONCE):
        keys = old[start : start + _LOOKED_UP_AT_ONCE]
        with database.transaction() as tx:
            garbage = set(keys) - repository.named(tx, keys)
        swept += sum(_delete_if_unnamed(database, store, key) for key in sorted(garbage))
    return swept


def _delete_if_unnamed(database: Database, store: ObjectStore, key: str) -> bool:
    # The one request to the store inside a transaction: the lock must outlast it.
    with database.transaction() as tx:
        repository.hold_object(tx, key)
        if repository.named(tx, [key]):
            return False
        store.delete(key)
        return True
