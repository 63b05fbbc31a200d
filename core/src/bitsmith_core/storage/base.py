"""The object store as the platform needs it: put, get, look, list, delete, sign. Nothing an S3 might not have."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    key: str
    bytes: int


class ObjectStore(Protocol):
    """Keys are slash-separated paths. Every method raises StoreUnavailable when the server cannot answer."""

    def ensure_bucket(self) -> None: ...

    def put_file(self, key: str, path: Path) -> None: ...

    def get_file(self, key: str, path: Path) -> None:
        """Raises NotFound if there is no such object."""

    def stat(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]: ...

    def delete(self, key: str) -> None:
        """Deleting what is not there is fine."""

    def presigned_get(self, key: str, *, expires: timedelta, filename: str) -> str:
        """A link that anybody holding it may GET until it expires; saves as filename."""
