"""Models on this machine's disk: downloaded once, verified, the least recently used dropped first.

<cache>/<manifest sha256>/...      complete, by rename
<cache>/<manifest sha256>.part/    being downloaded; dropped at the next start
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from bitsmith_core.bundle import FileEntry, StoredFile, file_sha256
from bitsmith_core.errors import NotFound, StoreUnavailable
from bitsmith_core.log import get_logger
from bitsmith_core.storage import ObjectStore

from bitsmith_serving.errors import FilesUnavailable, NotChattable

log = get_logger()

_WEIGHTS, _LAYOUT = "model.safetensors", "quantization.json"
_MERGED = "bf16/"
_NOT_FOR_CHAT = frozenset({"evals.json", "bits.svg", "sensitivity.json", "manifest.json"})
_PAUSE_S = 0.5


def files_for_chat(files: Sequence[StoredFile]) -> list[StoredFile]:
    """The native checkpoint of a quantized model; of merged adapters their 16-bit weights.

    Raises:
        NotChattable: there is neither, or a path leads out of the bundle.
    """
    for file in files:
        parts = PurePosixPath(file.path).parts
        if not parts or file.path.startswith("/") or ".." in parts or "\\" in file.path or "\0" in file.path:
            raise NotChattable(f"the manifest names {file.path!r}, which is no path inside a bundle")
    paths = {file.path for file in files}
    if {_WEIGHTS, _LAYOUT} <= paths:
        return [file for file in files if "/" not in file.path and file.path not in _NOT_FOR_CHAT]
    merged = [file for file in files if file.path.startswith(_MERGED)]
    if not merged:
        raise NotChattable("this version holds neither a native checkpoint nor merged weights (bf16/)")
    return merged


def weights_bytes(files: Sequence[FileEntry]) -> int:
    return sum(file.bytes for file in files if file.path.endswith(".safetensors"))


class ModelCache:
    """`fetch` may run in several threads, for different models."""

    def __init__(self, folder: Path, store: ObjectStore, *, limit_bytes: int, patience_s: float) -> None:
        self._folder, self._store = folder, store
        self._limit_bytes, self._patience_s = limit_bytes, patience_s
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.part"):
            shutil.rmtree(leftover, ignore_errors=True)

    def fetch(self, manifest_sha256: str, files: Sequence[StoredFile]) -> Path:
        """The folder that holds these files, every one what the manifest says.

        Raises:
            FilesUnavailable, NotChattable
        """
        folder = self._folder / manifest_sha256
        if folder.is_dir():
            folder.touch()
            return folder
        part = self._folder / f"{manifest_sha256}.part"
        shutil.rmtree(part, ignore_errors=True)
        started = time.monotonic()
        for file in files:
            path = part / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._download(file.object_key, path)
            if file_sha256(path) != file.sha256:
                raise FilesUnavailable(f"{file.path} arrived with another digest than the registry has; try again")
        part.rename(folder)
        total = sum(file.bytes for file in files)
        log.info("model.fetched", manifest=manifest_sha256, bytes=total, seconds=round(time.monotonic() - started, 1))
        return folder

    def drop_old(self, *, is_in_use: Callable[[str], bool]) -> None:
        """Keep to the limit, least recently used first; what an engine may still read stays."""
        folders = sorted((path for path in self._folder.iterdir() if path.is_dir()), key=lambda p: p.stat().st_mtime)
        sizes = {folder: sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) for folder in folders}
        total = sum(sizes.values())
        for folder in folders:
            if total <= self._limit_bytes:
                return
            if folder.suffix == ".part" or is_in_use(folder.name):
                continue
            shutil.rmtree(folder, ignore_errors=True)
            total -= sizes[folder]
            log.info("model.dropped_from_disk", manifest=folder.name, bytes=sizes[folder])

    def _download(self, key: str, path: Path) -> None:
        give_up_at = time.monotonic() + self._patience_s
        while True:
            try:
                self._store.get_file(key, path)
                return
            except NotFound as error:
                raise NotChattable(f"{error}; the version's files are gone") from error
            except StoreUnavailable as error:
                if time.monotonic() > give_up_at:
                    raise FilesUnavailable(f"the object store does not answer ({error}); try again later") from error
            time.sleep(_PAUSE_S)
