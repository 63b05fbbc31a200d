"""The object store as the platform needs it: put, get, look, list, delete, sign. Nothing an S3 might not have."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    key: str
    bytes: int
    modified_at: datetime | None = field(default=None, compare=False)  # None: the server does not say


class ObjectStore(Protocol):
    """Keys are slash-separated paths. Every method raises StoreUnavailable when the server cannot answer."""

    def ensure_bucket(self) -> None: ...

    def put_file(self, key: str, path: Path) -> None: ...

    def get_file(self, key: str, path: Path) -> None:
        """Raises NotFound if there is no such object."""

    def put_stream(self, key: str, stream: BinaryIO, *, size_bytes: int) -> None:
        """Put exactly size_bytes of the stream, holding little of it. What its read raises leaves no object behind."""

    def read(self, key: str, *, offset: int, length: int) -> bytes:
        """A range of an object, held in memory. Raises NotFound if there is no such object."""

    def stat(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]: ...

    def delete(self, key: str) -> None:
        """Deleting what is not there is fine."""

    def presigned_get(self, key: str, *, expires: timedelta, filename: str) -> str:
        """A link that anybody holding it may GET until it expires; saves as filename."""

    def presigned_put(self, key: str, *, expires: timedelta) -> str:
        """A link that anybody holding it may PUT the object to until it expires."""
