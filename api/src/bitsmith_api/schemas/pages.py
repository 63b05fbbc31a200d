"""Lists: a page and the cursor to the next one."""

from collections.abc import Sequence
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field


class Listed(BaseModel):
    """What a list may hold: things with an id, which is the cursor."""

    id: str


T = TypeVar("T", bound=Listed)


class Page(BaseModel, Generic[T]):
    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None = Field(description="pass it as `after` to read on")
    has_more: bool

    @classmethod
    def of(cls, found: Sequence[T], *, limit: int) -> Self:
        """The page of what was found when limit + 1 were asked for."""
        return cls.part(found[:limit], has_more=len(found) > limit)

    @classmethod
    def ending(cls, found: Sequence[T], *, limit: int) -> Self:
        """The same for a page that ends at a cursor: the one too many is the first."""
        return cls.part(found[-limit:], has_more=len(found) > limit)

    @classmethod
    def part(cls, data: Sequence[T], *, has_more: bool) -> Self:
        """Exactly these."""
        first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=list(data), first_id=first_id, last_id=last_id, has_more=has_more)
