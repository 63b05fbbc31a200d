"""Folders that are there completely or not at all, and files that are in several of them without a second copy."""

import errno
import os
import shutil
from pathlib import Path

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)


def sync(path: Path) -> None:
    """Whatever was written is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(source: Path, target: Path) -> None:
    """Rename source to target once everything in it is on disk; an older target goes away first."""
    for folder, _, names in os.walk(source):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)
    sync(target.parent)


def take_over(part: Path, target: Path) -> None:
    """Rename part to <kind>-<number>, then let its siblings of the kind go, by a rename as well.

    Whoever copies one of them has it whole or notices.
    """
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    sync(target.parent)
    for other in target.parent.glob(f"{target.name.rpartition('-')[0]}-*"):
        if other != target:
            doomed = other.with_name(f".old-{other.name}")
            shutil.rmtree(doomed, ignore_errors=True)
            other.rename(doomed)
            shutil.rmtree(doomed)


def link_tree(source: Path, target: Path) -> None:
    """The same files in another folder: links where the file system knows them, else copies.

    Only for files that nobody writes to any more.
    """
    for folder, _, names in os.walk(source):
        for name in names:
            path = target / Path(folder, name).relative_to(source)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(Path(folder, name), path)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(Path(folder, name), path)
