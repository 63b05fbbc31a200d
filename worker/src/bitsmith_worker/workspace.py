"""One attempt's files: inputs down, checkpoints down and up, artifacts up. Below SCRATCH, gone with the attempt.

    <scratch>/<job>-a<n>-<token>/   spec.json  engine.log  inputs/  out/stages/  out/artifacts/  held/

What the engine leaves is not trusted: only regular files inside its own folder go up, and artifacts only as the
manifest describes them.
"""

import errno
import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bitsmith_core.bundle import MANIFEST, Manifest, file_sha256
from bitsmith_core.errors import NotFound
from bitsmith_core.files import File
from bitsmith_core.jobs import Checkpoint, Lease
from bitsmith_core.registry import blobs
from bitsmith_core.registry.evals import Bundle
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import ObjectStore
from bitsmith_core.wire import ADJUSTMENTS_FILE, Adjustments, FailureClass
from pydantic import ValidationError

from bitsmith_worker import base_models, checkpoints
from bitsmith_worker.checkpoints import Kept
from bitsmith_worker.failure import AttemptFailed
from bitsmith_worker.patience import PatientStore
from bitsmith_worker.settings import WorkerSettings

_FOLDER = re.compile(r"ftjob-[0-9a-v]{26}-a\d+-[0-9a-f]{8}")


class Workspace:
    """Its methods may run in another thread than the one that closes it."""

    def __init__(self, settings: WorkerSettings, store: ObjectStore, lease: Lease) -> None:
        self._settings, self._lease = settings, lease
        self._store = PatientStore(store, patience_s=settings.store_patience_s)
        self._held = 0
        # Resolved, so that a file whose resolved path differs was reached through a link.
        self.folder = settings.scratch.resolve() / f"{lease.job_id}-{lease.label}"
        self.spec_file = self.folder / "spec.json"
        self.inputs = self.folder / "inputs"
        self.out = self.folder / "out"
        self.engine_log = self.folder / "engine.log"
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        with _disk_errors():
            self._settings.scratch.mkdir(parents=True, exist_ok=True)
            self._lock = _try_lock(self.folder)  # before the folder: a sweep must not take it for a leftover
            for folder in (self.inputs, self.out / "stages"):
                folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._store.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            _unlock(self._lock, self.folder)

    def fetch(
        self,
        spec: JobSpec,
        training: File | None,
        validation: File | None,
        packs: list[File],
        kept: list[Checkpoint],
        adjustments: Adjustments | None = None,
        version: Bundle | None = None,
    ) -> dict[str, int]:
        """Everything the engine needs: data files, eval packs, base model, the version to be evaluated, what earlier
        attempts left to go on from.

        Returns:
            The stages that need not be begun anew, with the step they are at; 0 for a finished one.

        Raises:
            AttemptFailed
        """
        self.write_spec(spec.model_dump_json())
        with _disk_errors():
            if training is not None:
                self._fetch_file(training, self.inputs / "training.jsonl")
            if validation is not None:
                self._fetch_file(validation, self.inputs / "validation.jsonl")
            (self.inputs / "packs").mkdir()
            for pack in packs:
                self._fetch_file(pack, self.inputs / "packs" / f"{pack.id}.jsonl")
            if version is not None:
                self._fetch_version(version, self.inputs / "version")
            if spec.needs_base:
                self.link_model(base_models.resolve(spec.model, self._settings.models))
            if adjustments is not None:
                (self.inputs / ADJUSTMENTS_FILE).write_text(adjustments.model_dump_json())
            return checkpoints.fetch_all(self._store, kept, self.out / "stages", self.out)

    def link_model(self, found: Path) -> None:
        """INPUTS/model is a folder, as the wire has it: the model's own, or one that holds its single file."""
        model = self.inputs / "model"
        if found.is_dir():
            model.symlink_to(found)
        else:
            model.mkdir()
            (model / found.name).symlink_to(found)

    def write_spec(self, spec_json: str) -> None:
        with _disk_errors():
            self.spec_file.write_text(spec_json)

    def hold(self, path: str) -> Path | None:
        """Keep a checkpoint of the engine as it is now, whatever the engine does next; None if it is gone already."""
        self._held += 1
        into = self.folder / "held" / str(self._held)
        with _disk_errors():
            return into if checkpoints.hold(self.out / "stages", self.out / path, into) else None

    def upload_held(self, held: Path, *, stage: str, step: int) -> Kept | None:
        """Raises AttemptFailed."""
        return self._upload(f"{self._lease.prefix}/checkpoints/{stage}-{step:08d}", held)

    def upload_stage(self, stage: str) -> Kept | None:
        """Put a finished stage into the store; None if the stage keeps nothing.

        Raises:
            AttemptFailed
        """
        return self._upload(f"{self._lease.prefix}/stages/{stage}", self.out / "stages" / stage)

    def forget(self, prefix: str) -> None:
        self._store.delete_below(prefix)

    def check_artifacts(self, expected_sha256: str) -> Manifest:
        """What the engine left, after every file of it was found to be what its manifest says.

        Raises:
            AttemptFailed
        """
        with _disk_errors():
            return read_manifest(self.out / "artifacts", expected_sha256)

    def upload_artifacts(self, manifest: Manifest) -> None:
        """Put each file under its digest, unless the store has it whole. Nobody sees them before a version names them.

        Hold them before, or a sweep may take what this finds to be there.

        Raises:
            AttemptFailed
        """
        entries = {entry.sha256: entry for entry in manifest.files}  # equal ones once
        with _disk_errors():
            for entry in entries.values():
                key = blobs.object_key(entry.sha256)
                if not self._store.has(key, size_bytes=entry.bytes):
                    self._store.put(key, self.out / "artifacts" / entry.path)

    def _fetch_file(self, file: File, path: Path) -> None:
        try:
            self._store.get(file.object_key, path)
        except NotFound as error:
            problem = f"The bytes of {file.id} ({file.filename}) are gone from the object store; upload the file again."
            raise AttemptFailed(FailureClass.DATA, "file_missing", problem) from error
        found = file_sha256(path)
        if found != file.sha256:
            problem = f"{file.id} ({file.filename}) arrived with digest {found} instead of {file.sha256}."
            raise AttemptFailed(FailureClass.INFRA, "file_corrupted", problem)

    def _fetch_version(self, version: Bundle, folder: Path) -> None:
        """A bundle as its engine left it, without what no model is loaded from."""
        for file in version.files:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._store.get(file.object_key, path)
            except NotFound as error:
                problem = f"{file.path} of the version is gone from the object store; evaluate another version."
                raise AttemptFailed(FailureClass.DATA, "file_missing", problem) from error
            if (found := file_sha256(path)) != file.sha256:
                problem = f"{file.path} of the version arrived with digest {found} instead of {file.sha256}."
                raise AttemptFailed(FailureClass.INFRA, "file_corrupted", problem)
        folder.mkdir(exist_ok=True)
        (folder / MANIFEST).write_text(version.manifest.model_dump_json())

    def _upload(self, prefix: str, folder: Path) -> Kept | None:
        with _disk_errors():
            return checkpoints.upload(self._store, prefix, folder, self.folder / "list.json")


def read_manifest(folder: Path, expected_sha256: str) -> Manifest:
    """The manifest in folder, after every file it names was found to be what it says.

    Raises:
        AttemptFailed: a file is absent, different, or outside folder.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise _bad_artifacts(f"its manifest cannot be read: {error}") from error
    if manifest.sha256 != expected_sha256:
        raise _bad_artifacts(f"it announced {expected_sha256}, and its manifest is {manifest.sha256}")
    present = set(checkpoints.regular_files(folder)) if folder.is_dir() else set()
    if MANIFEST not in present:
        raise _bad_artifacts("its manifest lies elsewhere")
    for entry in manifest.files:
        if entry.path not in present:
            raise _bad_artifacts(f"{entry.path!r} is in the manifest and not in the folder")
        path = folder / entry.path
        if (size := path.stat().st_size) != entry.bytes:
            raise _bad_artifacts(f"{entry.path} has {size} bytes instead of {entry.bytes}")
        if (digest := file_sha256(path)) != entry.sha256:
            raise _bad_artifacts(f"{entry.path} has digest {digest} instead of {entry.sha256}")
    return manifest


def sweep(scratch: Path) -> list[str]:
    """Remove what attempts left whose worker is dead; answers their folders' names."""
    swept = []
    for folder in scratch.iterdir() if scratch.is_dir() else ():
        if not (_FOLDER.fullmatch(folder.name) and folder.is_dir()):
            continue
        if (lock := _try_lock(folder)) is None:
            continue  # its worker lives
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock, folder)
        swept.append(folder.name)
    return swept


def _bad_artifacts(detail: str) -> AttemptFailed:
    return AttemptFailed(FailureClass.UNKNOWN, "bad_artifacts", f"The engine's result was not published: {detail}.")


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = f"The disk of this worker is full: {error}. Give its scratch folder more room."
        raise AttemptFailed(FailureClass.RESOURCE, "disk_full", problem) from error


def _lock_file(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


def _try_lock(folder: Path) -> IO[bytes] | None:
    """The lock that the kernel drops when its process dies, None if another process holds it."""
    file = _lock_file(folder).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _unlock(lock: IO[bytes], folder: Path) -> None:
    _lock_file(folder).unlink(missing_ok=True)
    lock.close()
