"""The servers behind the API, and one transaction for each request."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from bitsmith_core.db import Database, Tx
from bitsmith_core.registry.items import Items
from bitsmith_core.storage import ObjectStore
from fastapi import Depends
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.requests import Request

from bitsmith_api.deps.rates import Rates
from bitsmith_api.metrics import Metrics
from bitsmith_api.serving import Serving
from bitsmith_api.settings import ApiSettings


@dataclass(slots=True)
class Streams:
    """Shared by all event streams of the process."""

    # Readers take turns on few threads and connections, so that a thousand streams leave room for everybody else.
    readers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(4))
    is_closing: bool = False  # the process is about to end; clients come back with Last-Event-ID


def transaction_limit(database: Database) -> CapacityLimiter:
    """How many requests may have a transaction. Each keeps its connection from one of its threads to the next: if they
    had all connections, all threads might be waiting for one, and nobody would go on. So some are left to work that
    stays in its thread, such as that of the streams' four readers.
    """
    return CapacityLimiter(database.connections - 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    settings: ApiSettings
    database: Database
    store: ObjectStore
    items: Items  # of evaluations
    metrics: Metrics
    rates: Rates
    serving: Serving
    transactions: CapacityLimiter
    streams: Streams = field(default_factory=Streams)


async def services(request: Request) -> Services:
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


SharedServices = Annotated[Services, Depends(services)]


async def _transaction(request: Request, services: SharedServices) -> AsyncIterator[Tx]:
    async with services.transactions, contextmanager_in_threadpool(services.database.transaction()) as tx:
        request.state.transaction = tx  # for the audit trail
        yield tx


# scope="function": COMMIT comes before the response. With the default scope a failed commit would still answer 200.
Transaction = Annotated[Tx, Depends(_transaction, scope="function")]
