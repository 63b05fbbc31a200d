"""Who is there to do the work, by their own report."""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Job, Worker

ALIVE_FOR = timedelta(seconds=20)  # four missed reports of 5 s


def report(tx: Tx, *, name: str, device: str, local_models: list[str]) -> None:
    """I am here, and this is what I have. Repeated every few seconds."""
    row = insert(Worker).values(name=name, device=device, local_models=local_models)
    tx.execute(
        row.on_conflict_do_update(
            index_elements=[Worker.name],
            set_={"device": device, "local_models": local_models, "seen_at": func.now()},
        )
    )


def leave(tx: Tx, name: str) -> None:
    tx.execute(delete(Worker).where(Worker.name == name))


def alive(tx: Tx) -> list[Worker]:
    return list(tx.scalars(select(Worker).where(Worker.seen_at > func.now() - ALIVE_FOR).order_by(Worker.name)))


def idle_count(tx: Tx) -> int:
    """Live workers that hold no lease; each takes one job at a time."""
    busy = select(Job.lease_worker).where(Job.status == "running", Job.lease_expires_at > func.now())
    query = (
        select(func.count())
        .select_from(Worker)
        .where(Worker.seen_at > func.now() - ALIVE_FOR, Worker.name.not_in(busy))
    )
    return tx.scalar(query) or 0
