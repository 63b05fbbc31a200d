"""A version's files onto this disk: in pieces to NAME.part, verified by size and SHA-256, then renamed."""

import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from bitsmith_core.bundle import FileEntry, file_sha256, files_sha256

from bitsmith_client.sdk.answers import File, ModelFile, Version
from bitsmith_client.sdk.errors import ApiError, CorruptDownload, Disconnected
from bitsmith_client.sdk.transport import Transport

TRIES = 4


def fetch(
    transport: Transport,
    version: Version,
    folder: Path,
    *,
    wanted: Callable[[str], bool],
    on_bytes: Callable[[int], None],
    fresh: Callable[[], Version],
) -> list[Path]:
    """See Models.download. `fresh` answers the same version with new links, for when the old ones have expired."""
    _check_identity(version)
    paths = []
    for file in version.files:
        if not wanted(file.path):
            continue
        path = folder / _safe(file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_complete(path, file):
            version = _fetch_file(transport, version, file.path, path, on_bytes=on_bytes, fresh=fresh)
        paths.append(path)
    return paths


def fetch_data(transport: Transport, file: File, path: Path, *, link: Callable[[], str]) -> None:
    """See Files.content. `link` answers a fresh one each time."""
    part = path.with_name(path.name + ".part")
    for left in reversed(range(TRIES)):
        wanted = ModelFile(path=file.filename, bytes=file.bytes, sha256=file.sha256, download_url=link())
        try:
            _receive(transport, wanted, part, lambda received: None)
            break
        except Disconnected:
            if not left:
                raise
            time.sleep(0.5)
    if not _is_complete(part, wanted):
        part.unlink()
        raise CorruptDownload(f"{file.id} arrived damaged and nothing was kept of it: try again")
    part.replace(path)


def _fetch_file(
    transport: Transport,
    version: Version,
    name: str,
    path: Path,
    *,
    on_bytes: Callable[[int], None],
    fresh: Callable[[], Version],
) -> Version:
    """Answers the version whose links worked last."""
    part = path.with_name(path.name + ".part")
    for left in reversed(range(TRIES)):
        file = next(entry for entry in version.files if entry.path == name)
        try:
            _receive(transport, file, part, on_bytes)
            break
        except ApiError as error:
            if not left or error.status not in {401, 403}:
                raise
            version = fresh()
        except Disconnected:
            if not left:
                raise
            time.sleep(0.5)
    if not _is_complete(part, file):
        found = f"{part.stat().st_size} bytes with SHA-256 {file_sha256(part)}"
        part.unlink()
        raise CorruptDownload(
            f"{name} of {version.id} arrived as {found}, but the registry promises {file.bytes} bytes with "
            f"{file.sha256}; nothing was kept of it: try again, and if it repeats, the stored object is damaged"
        )
    part.replace(path)
    return version


def _receive(transport: Transport, file: ModelFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Append what is missing; an earlier, broken download is continued."""
    with part.open("ab") as sink:
        while (offset := sink.tell()) < file.bytes:
            with transport.link(file.download_url, offset=offset, total_bytes=file.bytes) as (is_range, chunks):
                if not is_range:
                    sink.truncate(0)
                for chunk in chunks:
                    sink.write(chunk)
                    on_bytes(len(chunk))
            if sink.tell() == offset:
                raise Disconnected(f"the object store sent nothing for {file.path}")


def _is_complete(path: Path, file: ModelFile) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes and file_sha256(path) == file.sha256


def _check_identity(version: Version) -> None:
    """The list of files is itself what the version's digest covers."""
    entries = [FileEntry(path=file.path, bytes=file.bytes, sha256=file.sha256) for file in version.files]
    if files_sha256(entries) != version.manifest_sha256:
        raise CorruptDownload(
            f"the files listed for {version.id} are not those its digest {version.manifest_sha256} names"
        )


def _safe(path: str) -> PurePosixPath:
    """A server must not choose where on this machine we write."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise CorruptDownload(
            f"the registry lists a file at {path!r}, which is outside the folder; nothing was fetched"
        )
    return pure
