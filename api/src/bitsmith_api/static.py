"""The web UI's files, which lie in `ui/` beside this module, and plotly's JavaScript out of its own package."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path, PurePosixPath

from bitsmith_core.errors import NotFound

ROOT = Path(__file__).parent / "ui"
INDEX = "index.html"
PLOTLY = "vendor/plotly.min.js"

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_FOLDERS = frozenset({"i18n", "lib", "style", "vendor", "views"})
_SMALL = 1000  # bytes; below it gzip saves nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    content: bytes
    gzipped: bytes | None  # None where it would save nothing
    media_type: str
    sha256: str


def find(path: str) -> StaticFile:
    """What answers this address below /ui/: a file of the UI's folders, or index.html for any other: a view's.

    Raises:
        NotFound: there is no such file in that folder.
    """
    if path == PLOTLY:
        return _at(Path(str(files("plotly") / "package_data" / "plotly.min.js")))
    wanted = PurePosixPath(path)
    if path != "main.js" and (not wanted.parts or wanted.parts[0] not in _FOLDERS):
        return _at(ROOT / INDEX)
    if ".." in wanted.parts or wanted.suffix not in _MEDIA_TYPES or not (ROOT / wanted).is_file():
        raise NotFound(f"there is no file {path} in the web UI")
    return _at(ROOT / wanted)


def _at(file: Path) -> StaticFile:
    return _read(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read(file: Path, _changed_ns: int) -> StaticFile:
    """Kept in memory until the file changes: there are few, and they are small but for plotly's."""
    content = file.read_bytes()
    zipped = gzip.compress(content, compresslevel=6, mtime=0) if len(content) > _SMALL else None
    return StaticFile(
        content=content,
        gzipped=zipped,
        media_type=_MEDIA_TYPES[file.suffix],
        sha256=hashlib.sha256(content).hexdigest(),
    )
