"""Pools of workers, by name: a job runs on a worker of the pool that it names, and on no other. Pure."""

from collections.abc import Collection
from typing import Annotated

from pydantic import Field

DEFAULT_POOL = "default"
"""Of jobs and workers that name none, and of all there were before there were pools."""

PoolName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


def absent(pool: str, present: Collection[str]) -> str | None:
    """Why no job of the pool starts, if so.

    Args:
        present: pools that have a live worker.
    """
    if pool in present:
        return None
    if not present:
        return f"no live worker of the pool {pool}, nor of any other"
    return f"no live worker of the pool {pool}; there are pools: {', '.join(sorted(present))}"
