"""Who is there to do the work, by their own report."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Job, Worker
from bitsmith_core.errors import NotFound
from bitsmith_core.pools import DEFAULT_POOL

ALIVE_FOR = timedelta(seconds=20)  # four missed reports of 5 s


class Seen(NamedTuple):
    """A worker, and what is known of it just now."""

    worker: Worker
    is_alive: bool
    job: Job | None  # whose lease it holds


def report(
    tx: Tx,
    *,
    name: str,
    device: str,
    local_models: list[str],
    devices: int = 1,
    memory_bytes: int | None = None,
    pool: str = DEFAULT_POOL,
) -> None:
    """I am here, and this is what I have. Repeated every few seconds."""
    facts = {
        "device": device, "local_models": local_models, "devices": devices, "memory_bytes": memory_bytes, "pool": pool
    }  # fmt: skip
    row = insert(Worker).values(name=name, **facts)
    tx.execute(
        row.on_conflict_do_update(index_elements=[Worker.name], set_={**facts, "seen_at": func.now()}),
    )


def arrive(tx: Tx, name: str) -> None:
    """A process of this name starts anew: what people wished of an earlier one is no concern of it."""
    tx.execute(delete(Worker).where(Worker.name == name))


def leave(tx: Tx, name: str) -> None:
    tx.execute(delete(Worker).where(Worker.name == name))


def forget(tx: Tx, *, unseen_for: timedelta) -> int:
    """Those that went without a word, and whose name may never come back; answers how many."""
    gone = delete(Worker).where(Worker.seen_at < func.now() - unseen_for).returning(Worker.name)
    return len(tx.scalars(gone).all())


def drain(tx: Tx, name: str, *, wanted: bool) -> bool:
    """Wish that a worker gives back its job at a checkpoint and takes no other, or that it works again.

    The worker's next heartbeat brings the wish; a process that starts anew under the name has none.

    Returns:
        Whether there is such a worker.
    """
    changed = update(Worker).where(Worker.name == name).values(is_draining=wanted).returning(Worker.name)
    return tx.scalar(changed) is not None


def is_draining(tx: Tx, name: str) -> bool:
    return bool(tx.scalar(select(Worker.is_draining).where(Worker.name == name)))


def described(tx: Tx, name: str) -> dict[str, Any]:
    """What an attempt remembers of its worker; nothing of one that has never reported."""
    worker = tx.get(Worker, name)
    if worker is None:
        return {}
    return {"device": worker.device, "devices": worker.devices, "memory_bytes": worker.memory_bytes}


def alive(tx: Tx) -> list[Worker]:
    return list(tx.scalars(select(Worker).where(_is_alive()).order_by(Worker.name)))


def live_pools(tx: Tx) -> set[str]:
    """Those with a live worker."""
    return set(tx.scalars(select(Worker.pool).where(_is_alive()).distinct()))


def page(tx: Tx, *, limit: int, after: str | None = None, pool: str | None = None) -> list[Seen]:
    """By name; those that fell silent too, until they leave or come again."""
    wanted = Worker.name > (after or "")
    return _seen(tx, wanted if pool is None else and_(wanted, Worker.pool == pool), limit=limit)


def get(tx: Tx, name: str) -> Seen:
    """
    Raises:
        NotFound: nobody of that name has reported.
    """
    for seen in _seen(tx, Worker.name == name, limit=1):
        return seen
    raise NotFound(f"there is no worker {name}")


def those(tx: Tx, names: Collection[str]) -> list[Seen]:
    """Of these names, who has reported."""
    return _seen(tx, Worker.name.in_(names), limit=len(names))


def at_work(tx: Tx, names: Collection[str]) -> set[str]:
    """Of these names, who was given a job that did not come back, were it that the lease ran out."""
    held = select(Job.lease_worker).where(Job.status == "running", Job.lease_worker.in_(names))
    return {name for name in tx.scalars(held) if name is not None}


def _seen(tx: Tx, wanted: ColumnElement[bool], *, limit: int) -> list[Seen]:
    query = select(Worker, _is_alive()).where(wanted).order_by(Worker.name).limit(limit)
    found = [(worker, is_alive) for worker, is_alive in tx.execute(query)]
    names = [worker.name for worker, _ in found]
    held = select(Job).where(_is_held(), Job.lease_worker.in_(names)).order_by(Job.lease_expires_at)
    jobs = {job.lease_worker: job for job in tx.scalars(held)}
    return [Seen(worker, is_alive, jobs.get(worker.name)) for worker, is_alive in found]


def idle_counts(tx: Tx, *, but_for: Collection[str] = ()) -> dict[str, int]:
    """By pool, without zeros: live workers that hold no lease and are not draining. Each takes one job at a time."""
    busy = select(Job.lease_worker).where(_is_held())
    query = (
        select(Worker.pool, func.count())
        .where(_is_alive(), ~Worker.is_draining, Worker.name.not_in(busy), Worker.name.not_in(but_for))
        .group_by(Worker.pool)
    )
    return dict(iter(tx.execute(query)))


def is_draining_now(name: str) -> ColumnElement[bool]:
    """For the WHERE of a claim."""
    return select(Worker.name).where(Worker.name == name, Worker.is_draining).exists()


def are_others_alive(name: str, *, pool: str) -> ColumnElement[bool]:
    """For the WHERE of a claim."""
    return (
        select(Worker.name).where(Worker.name != name, Worker.pool == pool, _is_alive(), ~Worker.is_draining).exists()
    )


def _is_alive() -> ColumnElement[bool]:
    return Worker.seen_at > func.now() - ALIVE_FOR


def _is_held() -> ColumnElement[bool]:
    return and_(Job.status == "running", Job.lease_expires_at > func.now())
