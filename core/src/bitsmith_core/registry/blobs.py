"""Which objects may hold files of versions: a row for each digest. Every SQL statement about them.

An object of the store has no owner: versions share it, and attempts that never publish leave it behind. Its row
decides between those who come for it and the sweep. `hold` writes the row before the store is asked whether the bytes
are there; `claim` needs the row and keeps it until its transaction ends; the sweep locks the row while it deletes the
object, and takes none that was held lately or that anything names.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from sqlalchemy import delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert

from bitsmith_core.bundle import FileEntry
from bitsmith_core.db import Tx
from bitsmith_core.db.models import Blob, Eval, VersionFile
from bitsmith_core.errors import FilesGone

PREFIX = "blobs/"


def object_key(sha256: str) -> str:
    return f"{PREFIX}{sha256[:2]}/{sha256}"


def hold(tx: Tx, files: Iterable[FileEntry]) -> None:
    """From the commit on, and as long as orphans are kept, the sweep leaves these files alone, there or not yet there.

    Commit before the store is asked whether it has them. Safe to repeat.
    """
    keys = sorted({object_key(file.sha256) for file in files})  # one order, or two holders could wait for each other
    if not keys:
        return
    now = func.clock_timestamp()  # not the transaction's beginning: it may have waited for the sweep
    rows = insert(Blob).values([{"object_key": key, "held_at": now} for key in keys])
    tx.execute(rows.on_conflict_do_update(index_elements=[Blob.object_key], set_={"held_at": now}))


def claim(tx: Tx, files: Sequence[FileEntry]) -> dict[str, str]:
    """The object of each file, by the file's path, for rows that this transaction writes; none is swept before its end.

    Raises:
        FilesGone: an object was never held, or was swept meanwhile.
    """
    keys = {file.path: object_key(file.sha256) for file in files}
    wanted = sorted(set(keys.values()))
    query = select(Blob.object_key).where(Blob.object_key.in_(wanted)).order_by(Blob.object_key)
    there = set(tx.scalars(query.with_for_update(key_share=True, read=True)))
    gone = [path for path, key in keys.items() if key not in there]
    if gone:
        raise FilesGone(f"{len(gone)} of {len(keys)} files are held no more, among them {gone[0]}; send them again")
    return keys


def unwanted(tx: Tx, keys: Sequence[str], *, older_than: timedelta) -> list[str]:
    """Those of the keys that nothing names and that nobody has held for so long. Locks nothing."""
    published = select(VersionFile.object_key).where(VersionFile.object_key.in_(keys))
    items = select(Eval.items_key).where(Eval.items_key.in_(keys))
    held = select(Blob.object_key).where(Blob.object_key.in_(keys), Blob.held_at >= func.now() - older_than)
    wanted = {*tx.scalars(published), *tx.scalars(items), *tx.scalars(held)}
    return [key for key in keys if key not in wanted]


def release(tx: Tx, key: str, *, older_than: timedelta) -> bool:
    """Forget an object unless somebody wants it. Where it answers True, delete the bytes before you commit: whoever
    would hold the object waits for that, finds nothing, and sends it anew.
    """
    # An object without a row (its upload outlived the row) gets one, for without it there is nothing to wait for.
    tx.execute(insert(Blob).values(object_key=key, held_at=func.to_timestamp(0)).on_conflict_do_nothing())
    tx.execute(select(Blob.object_key).where(Blob.object_key == key).with_for_update())
    # A statement of its own: it sees what was committed while the lock was waited for.
    if not unwanted(tx, [key], older_than=older_than):
        return False
    tx.execute(delete(Blob).where(Blob.object_key == key))
    return True


def forgettable(tx: Tx, *, older_than: timedelta, after: str, limit: int) -> list[str]:
    """Keys behind `after` that nothing names and nobody held for so long, whether or not the store has the object."""
    is_published = exists().where(VersionFile.object_key == Blob.object_key)
    has_items = exists().where(Eval.items_key == Blob.object_key)
    query = select(Blob.object_key).where(Blob.held_at < func.now() - older_than, ~is_published, ~has_items)
    return list(tx.scalars(query.where(Blob.object_key > after).order_by(Blob.object_key).limit(limit)))
