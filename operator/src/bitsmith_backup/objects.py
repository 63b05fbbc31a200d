"""Objects of the store to files and back."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from bitsmith_core.errors import NotFound
from bitsmith_core.storage import ObjectInfo, ObjectStore

from bitsmith_backup.contents import Object, object_path
from bitsmith_backup.errors import BackupFailed

T = TypeVar("T")

PREFIXES = ("blobs/", "files/", "jobs/")
AT_ONCE = 8

Progress = Callable[[int, int], None]
"""Hears how many objects are done, and how many bytes."""


def export(store: ObjectStore, folder: Path, *, on_progress: Progress) -> list[Object]:
    """Every object that is there; one that was copied before, and has its size, is not copied again."""
    copied = _at_once(
        partial(_fetch, store, folder), (info for prefix in PREFIXES for info in store.list(prefix)), on_progress
    )
    return sorted((found for found in copied if found is not None), key=lambda found: found.key)


def restore(store: ObjectStore, folder: Path, objects: Iterable[Object], *, on_progress: Progress) -> None:
    """Put back what is not there; may be repeated.

    Raises:
        BackupFailed: a copy is missing or has another size.
    """
    store.ensure_bucket()
    for _ in _at_once(partial(_put, store, folder), objects, on_progress):
        pass


def check(folder: Path, objects: Iterable[Object]) -> None:
    """
    Raises:
        BackupFailed: naming the first copy that is missing or has another size.
    """
    for found in objects:
        _whole(folder, found)


def _fetch(store: ObjectStore, folder: Path, info: ObjectInfo) -> Object | None:
    path = object_path(folder, info.key)
    if not path.is_file() or path.stat().st_size != info.bytes:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            store.get_file(info.key, part)
        except NotFound:  # the janitor was faster: nothing names it
            return None
        part.replace(path)
    return Object(key=info.key, bytes=path.stat().st_size)


def _put(store: ObjectStore, folder: Path, found: Object) -> Object:
    path = _whole(folder, found)
    there = store.stat(found.key)
    if there is None or there.bytes != found.bytes:
        store.put_file(found.key, path)
    return found


def _whole(folder: Path, found: Object) -> Path:
    path = object_path(folder, found.key)
    if not path.is_file() or path.stat().st_size != found.bytes:
        raise BackupFailed(f"the copy of {found.key} is missing or not whole; take another snapshot")
    return path


def _at_once(task: Callable[[T], Object | None], things: Iterable[T], on_progress: Progress) -> Iterator[Object | None]:
    done = size_bytes = 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="objects") as pool:
        for found in pool.map(task, things):
            done, size_bytes = done + 1, size_bytes + (found.bytes if found is not None else 0)
            on_progress(done, size_bytes)
            yield found
