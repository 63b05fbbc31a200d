"""From parts in the store to one file under its digest, read in ranges: memory stays small, disks stay empty.

Twice, because S3 wants an object's name before its bytes and ours is their digest: once to check and digest, once to
copy. The copy is digested too, for whoever holds a part's link could change it in between.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitsmith_core import files
from bitsmith_core.errors import Conflict, InvalidUpload, NotFound, Problem
from bitsmith_core.ids import ProjectId, UploadId
from bitsmith_core.storage import ObjectStore

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_RANGE_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPart:
    key: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to become one file: these parts in this order."""

    upload_id: UploadId
    project: ProjectId
    filename: str
    purpose: files.Purpose
    bytes: int
    sha256: str | None  # None: nobody said
    parts: Sequence[PlannedPart]
    is_done: bool  # it is a file already, and there is nothing to put together


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """What the parts turned out to be."""

    sha256: str
    examples: int


def check(store: ObjectStore, plan: Plan, *, sha256: str | None = None, md5: str | None = None) -> Whole:
    """Read everything once: sizes, every line, digests.

    Raises:
        InvalidUpload: a part is missing or has another size, or a digest is not the one that was promised.
        InvalidFile: naming each bad line.
    """
    _check_parts(store, plan.parts)
    parts = _Parts(store, plan.parts)
    examples = files.validate(io.BufferedReader(parts, _RANGE_BYTES), plan.purpose)
    found = parts.sha256.hexdigest()
    for pointer, promised, is_so in (
        ("/sha256", plan.sha256, found),
        ("/sha256", sha256, found),
        ("/md5", md5, parts.md5.hexdigest()),
    ):
        if promised is not None and promised.lower() != is_so:
            detail = f"the parts together have {pointer[1:]} {is_so}, not {promised}; check their order and send again"
            raise InvalidUpload(detail, [Problem(pointer=pointer, code="wrong_digest", detail=detail)])
    return Whole(sha256=found, examples=examples)


def assemble(store: ObjectStore, plan: Plan, whole: Whole) -> None:
    """Put the parts together under their digest, unless the store has that already. Safe to repeat.

    Raises:
        Conflict: somebody changed a part after it was checked; nothing is left of the copy.
    """
    key = files.object_key(whole.sha256)
    if store.stat(key) is None:
        parts = _Parts(store, plan.parts, expected_sha256=whole.sha256)
        store.put_stream(key, io.BufferedReader(parts, _RANGE_BYTES), size_bytes=plan.bytes)


def _check_parts(store: ObjectStore, parts: Sequence[PlannedPart]) -> None:
    problems = []
    for index, part in enumerate(parts):
        found = store.stat(part.key)
        if found is None or found.bytes != part.bytes:
            have = "nothing" if found is None else f"{found.bytes} bytes"
            detail = f"this part was to have {part.bytes} bytes, and {have} arrived; send it again"
            problems.append(Problem(pointer=f"/part_ids/{index}", code="incomplete_part", detail=detail))
    if problems:
        raise InvalidUpload(f"{problems[0].pointer}: {problems[0].detail}", problems)


class _Parts(io.RawIOBase):
    """The parts one after the other, digested on their way."""

    def __init__(self, store: ObjectStore, parts: Sequence[PlannedPart], *, expected_sha256: str | None = None) -> None:
        self.sha256 = hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False)
        self._store = store
        self._expected_sha256 = expected_sha256
        self._left = sum(part.bytes for part in parts)
        self._ranges = self._read_ranges(parts)
        self._range = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        if not self._range:
            self._range = memoryview(next(self._ranges, b""))
        with memoryview(buffer).cast("B") as room:
            count = min(len(room), len(self._range))
            room[:count] = self._range[:count]
        self._range = self._range[count:]
        return count

    def _read_ranges(self, parts: Sequence[PlannedPart]) -> Iterator[bytes]:
        for part in parts:
            for offset in range(0, part.bytes, _RANGE_BYTES):
                length = min(_RANGE_BYTES, part.bytes - offset)
                try:
                    found = self._store.read(part.key, offset=offset, length=length)
                except NotFound as error:
                    raise Conflict("a part vanished while it was read; the upload was cancelled or expired") from error
                self.sha256.update(found)
                self.md5.update(found)
                self._left -= len(found)
                is_last_and_wrong = not self._left and self._expected_sha256 not in {None, self.sha256.hexdigest()}
                if len(found) != length or is_last_and_wrong:
                    raise Conflict("a part changed while it was read; send it again and complete the upload again")
                yield found
