"""Times as the API writes them."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

UnixSeconds = Annotated[int, Field(description="unix seconds", examples=[1795219200])]


def unix(time: datetime) -> int:
    return int(time.timestamp())


def unix_or_none(time: datetime | None) -> int | None:
    return None if time is None else unix(time)
