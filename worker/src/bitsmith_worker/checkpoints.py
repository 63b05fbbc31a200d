"""What another worker goes on from: folders of OUT/stages in the object store, each with a list of digests.

<prefix>/<path>...            the files
<prefix>/checkpoint.json      their paths, sizes and SHA-256; it goes up last and is checked on the way down
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitsmith_core.bundle import FileEntry, file_sha256
from bitsmith_core.errors import NotFound
from bitsmith_core.jobs import Checkpoint
from bitsmith_core.log import get_logger
from pydantic import TypeAdapter, ValidationError

from bitsmith_worker.patience import PatientStore

log = get_logger()

_LIST_FILE = "checkpoint.json"
_ENTRIES = TypeAdapter(list[FileEntry])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A folder that lies complete in the store."""

    prefix: str
    files: list[str]  # paths below it
    size_bytes: int


def hold(stages: Path, folder: Path, into: Path) -> bool:
    """Link the files of a folder below stages into another, at the same paths, so that they outlive it there.

    False, and nothing there, if the folder is gone or is not what it should be.
    """
    if folder.resolve() != folder or not folder.is_relative_to(stages) or folder == stages:
        log.warning("checkpoint.elsewhere", path=str(folder))
        return False
    try:
        for name in regular_files(folder):
            path = into / folder.relative_to(stages) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / name, path)
    except FileNotFoundError:  # the next one has taken its place
        shutil.rmtree(into, ignore_errors=True)
        return False
    return into.is_dir()


def upload(store: PatientStore, prefix: str, folder: Path, scratch: Path) -> Kept | None:
    """Everything regular below folder, None if there is nothing.

    Raises:
        AttemptFailed
    """
    names = sorted(regular_files(folder)) if folder.is_dir() and folder.resolve() == folder else []
    if not names:
        return None
    entries = [
        FileEntry(path=name, bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name)) for name in names
    ]
    for name in names:
        store.put(f"{prefix}/{name}", folder / name)
    scratch.write_bytes(_ENTRIES.dump_json(entries))
    store.put(f"{prefix}/{_LIST_FILE}", scratch)
    scratch.unlink()
    return Kept(prefix=prefix, files=names, size_bytes=sum(entry.bytes for entry in entries))


def fetch_all(store: PatientStore, checkpoints: Sequence[Checkpoint], stages: Path, scratch: Path) -> dict[str, int]:
    """Put finished stages where they were, and of every other stage the newest checkpoint that is whole.

    One that is damaged is left out: the engine does its stage again, or goes on from the one before.

    Returns:
        The step of each stage that was fetched; 0 for a finished one.

    Raises:
        AttemptFailed
    """
    fetched: dict[str, int] = {}
    newest_first = sorted(checkpoints, key=lambda kept: (kept.created_at, kept.step), reverse=True)
    for checkpoint in sorted(newest_first, key=lambda kept: kept.step > 0):  # the sort is stable
        if checkpoint.stage in fetched:
            continue
        part = scratch / f"{checkpoint.stage}.part"
        if _fetch(store, checkpoint, part):
            into = stages if checkpoint.step else stages / checkpoint.stage
            into.mkdir(exist_ok=True)
            for entry in part.iterdir():
                entry.rename(into / entry.name)
            fetched[checkpoint.stage] = checkpoint.step
        shutil.rmtree(part, ignore_errors=True)
    return fetched


def regular_files(folder: Path) -> Iterator[str]:
    """Files inside folder (itself resolved), as relative paths.

    What is reached through a link is left out: it could lead to what is not the engine's to publish.

    Raises:
        FileNotFoundError: the folder, or one below it, is gone.
    """

    def give_up(error: OSError) -> None:
        raise error

    for current, _, names in os.walk(folder, onerror=give_up):
        for name in names:
            path = Path(current) / name
            if path.is_file() and path.resolve() == path:
                yield path.relative_to(folder).as_posix()


def _fetch(store: PatientStore, checkpoint: Checkpoint, part: Path) -> bool:
    part.mkdir(parents=True)
    list_file = part / _LIST_FILE
    try:
        store.get(f"{checkpoint.prefix}/{_LIST_FILE}", list_file)
        entries = _ENTRIES.validate_json(list_file.read_bytes())
        list_file.unlink()
        if sorted(entry.path for entry in entries) != sorted(checkpoint.files):
            raise _Damaged("its list names other files than its row")
        for entry in entries:
            path = part / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            store.get(f"{checkpoint.prefix}/{entry.path}", path)
            if (digest := file_sha256(path)) != entry.sha256:
                raise _Damaged(f"{entry.path} has digest {digest} instead of {entry.sha256}")
    except (NotFound, ValidationError, _Damaged) as error:
        log.warning("checkpoint.damaged", stage=checkpoint.stage, step=checkpoint.step, reason=str(error))
        return False
    return True


class _Damaged(Exception):
    pass
