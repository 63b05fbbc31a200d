"""Parts whose upload is over are garbage."""

from datetime import timedelta

from bitsmith_core.clock import utc_now
from bitsmith_core.db import Database
from bitsmith_core.ids import UploadId
from bitsmith_core.storage import ObjectStore
from bitsmith_core.uploads import repository

_LOOKED_UP_AT_ONCE = 500


def discard_parts(store: ObjectStore, upload_id: UploadId) -> None:
    """Delete the parts of an upload that is over. Safe to repeat; what it leaves is swept later."""
    for found in list(store.list(f"{repository.PREFIX}{upload_id}/")):
        store.delete(found.key)


def sweep(database: Database, store: ObjectStore, *, older_than: timedelta) -> int:
    """Write down which uploads have expired, and delete what is left of all that are over; answers how many objects.

    Args:
        older_than: since an object was written: the link of a part may outlive its upload a while.
    """
    while True:
        with database.transaction() as tx:
            expired = repository.expire(tx)
        for upload_id in expired:
            discard_parts(store, upload_id)
        if not expired:
            break
    until = utc_now() - older_than
    old = [
        found.key
        for found in store.list(repository.PREFIX)
        if found.modified_at is not None and found.modified_at < until
    ]
    swept = 0
    for start in range(0, len(old), _LOOKED_UP_AT_ONCE):
        keys = old[start : start + _LOOKED_UP_AT_ONCE]
        with database.transaction() as tx:
            pending = repository.pending(tx, sorted({_upload_of(key) for key in keys}))
        for key in keys:
            if _upload_of(key) not in pending:
                store.delete(key)
                swept += 1
    return swept


def _upload_of(key: str) -> UploadId:
    return UploadId(key.removeprefix(repository.PREFIX).partition("/")[0])
