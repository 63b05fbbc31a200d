"""Objects of versions that nothing names any more, and those of attempts that never published."""

from datetime import timedelta

from bitsmith_core.clock import utc_now
from bitsmith_core.db import Database
from bitsmith_core.registry import blobs
from bitsmith_core.storage import ObjectStore

_LOOKED_UP_AT_ONCE = 500


def sweep(database: Database, store: ObjectStore, *, older_than: timedelta) -> int:
    """Delete objects that no version or evaluation names and nobody has held for so long; answers how many."""
    return _sweep_rows(database, store, older_than) + _sweep_objects(database, store, older_than)


def _sweep_rows(database: Database, store: ObjectStore, older_than: timedelta) -> int:
    swept, after = 0, ""
    while True:
        with database.transaction() as tx:
            keys = blobs.forgettable(tx, older_than=older_than, after=after, limit=_LOOKED_UP_AT_ONCE)
        if not keys:
            return swept
        swept += sum(_release(database, store, key, older_than) for key in keys)
        after = keys[-1]


def _sweep_objects(database: Database, store: ObjectStore, older_than: timedelta) -> int:
    """Those that lost their row: an upload that had been given up arrived after the sweep had been there."""
    until = utc_now() - older_than
    listed = store.list(blobs.PREFIX)
    old = [found.key for found in listed if found.modified_at is not None and found.modified_at < until]
    swept = 0
    for start in range(0, len(old), _LOOKED_UP_AT_ONCE):
        with database.transaction() as tx:
            keys = blobs.unwanted(tx, old[start : start + _LOOKED_UP_AT_ONCE], older_than=older_than)
        swept += sum(_release(database, store, key, older_than) for key in keys)
    return swept


def _release(database: Database, store: ObjectStore, key: str, older_than: timedelta) -> bool:
    # The one request to the store inside a transaction: the lock must outlast it.
    with database.transaction() as tx:
        if not blobs.release(tx, key, older_than=older_than):
            return False
        store.delete(key)
        return True
