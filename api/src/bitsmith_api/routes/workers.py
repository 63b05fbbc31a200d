"""Workers: who is there, and who shall take no more jobs. They are the installation's, not a project's."""

from typing import Annotated

from bitsmith_core import jobs
from bitsmith_core.errors import NotFound
from bitsmith_core.ids import ProjectId
from bitsmith_core.pools import PoolName
from fastapi import APIRouter, Depends, Path, Query

from bitsmith_api.auth import Caller
from bitsmith_api.deps import Audited, Bounds, FromCaller, Transaction, checked_cursor, require
from bitsmith_api.errors import documented
from bitsmith_api.schemas.workers import Worker, WorkerList

router = APIRouter(prefix="/v1/workers", tags=["Workers"], route_class=Audited)
READS, WRITES = [require("workers:read")], [require("workers:write")]


def _is_name(text: str) -> bool:
    return bool(text) and "\0" not in text  # Postgres knows no NUL


async def _name(worker: Annotated[str, Path(examples=["gpu-0"])]) -> str:
    if not _is_name(worker):
        raise NotFound(f"there is no worker {worker}")
    return worker


Name = Annotated[str, Depends(_name)]


@router.get("", summary="List workers", dependencies=READS, responses=documented(401, 422, 500, 503))
def list_workers(
    bounds: Bounds,
    caller: FromCaller,
    tx: Transaction,
    pool: Annotated[PoolName | None, Query(description="only those of this pool")] = None,
) -> WorkerList:
    """By name. One that signs off is gone from the list; one that falls silent stays there as `lost`."""
    after = checked_cursor(bounds.after, _is_name, what="the name of a worker")
    found = jobs.workers.page(tx, limit=bounds.limit + 1, after=after, pool=pool)
    return WorkerList.of([Worker.of(seen, project=_named(caller)) for seen in found], limit=bounds.limit)


@router.post("/{worker}/drain", summary="Drain a worker", dependencies=WRITES, responses=documented(401, 404, 500, 503))
def drain_worker(name: Name, caller: FromCaller, tx: Transaction) -> Worker:
    """It gives back its job at a checkpoint, for another worker to go on, and takes no other. Only with the bootstrap
    key. A process that starts anew under the name works again.
    """
    jobs.workers.drain(tx, name, wanted=True)
    return Worker.of(jobs.workers.get(tx, name), project=_named(caller))


@router.post(
    "/{worker}/undrain", summary="Let a worker work again", dependencies=WRITES,
    responses=documented(401, 404, 500, 503),
)  # fmt: skip
def undrain_worker(name: Name, caller: FromCaller, tx: Transaction) -> Worker:
    """From now on it takes jobs again. Only with the bootstrap key."""
    jobs.workers.drain(tx, name, wanted=False)
    return Worker.of(jobs.workers.get(tx, name), project=_named(caller))


def _named(caller: Caller) -> ProjectId | None:
    """Whose jobs the caller may hear of."""
    return None if caller.is_installation else caller.project
