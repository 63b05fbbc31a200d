"""Lists come in pages; who asks for one wants the things."""

from itertools import count
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from bitsmith_client.sdk.transport import Transport

T = TypeVar("T", bound=BaseModel)

PAGE = 100


def listed(
    transport: Transport, path: str, kind: type[T], *, limit: int | None, query: dict[str, Any] | None = None
) -> list[T]:
    """As many as `limit`, or all, from as many pages as it takes."""
    found: list[T] = []
    query = dict(query or {})
    for _ in count():
        query["limit"] = PAGE if limit is None else min(PAGE, limit - len(found))
        page = transport.get(path, query)
        found += [kind.model_validate(item) for item in page["data"]]
        if not page.get("has_more") or not page["data"] or (limit is not None and len(found) >= limit):
            break
        query["after"] = page["last_id"]
    return found


def segment(text: str) -> str:
    """Text as one part of a path."""
    return quote(text, safe="")
