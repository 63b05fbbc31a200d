"""Carries the outbox to the broker. A row is marked after it was sent: sent twice is fine, not at all is not."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from bitsmith_core.db import Database
from bitsmith_core.errors import QueueUnavailable
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import outbox
from bitsmith_core.log import get_logger
from bitsmith_core.pools import DEFAULT_POOL
from bitsmith_core.queue import Courier

log = get_logger()

BATCH = 100
KEEP_SENT = timedelta(days=1)  # for a person who asks what was sent
PRUNE_EVERY_S = 3600.0


class Relay:
    """Remembers only whether the broker was there, to say so once per outage."""

    def __init__(self, database: Database, courier: Courier) -> None:
        self._database, self._courier = database, courier
        self._is_outage = False
        self._prune_at = time.monotonic()

    def relay(self) -> None:
        """Send what is unsent, oldest first, until done or the broker does not take it."""
        told: set[JobId] = set()  # offers of one job pile up while the broker is away; one message is enough
        with self._database.transaction() as tx:
            for row in outbox.unsent(tx, limit=BATCH):
                job_id = JobId(row.payload["job_id"])
                if job_id not in told and not self._send(job_id, row.payload):
                    break
                told.add(job_id)
                outbox.mark_sent(tx, row.id)

    def prune(self) -> None:
        """Once an hour, forget what was sent long ago."""
        if time.monotonic() < self._prune_at:
            return
        with self._database.transaction() as tx:
            pruned = outbox.prune(tx, older_than=KEEP_SENT)
        self._prune_at = time.monotonic() + PRUNE_EVERY_S
        if pruned:
            log.info("outbox.pruned", rows=pruned)

    def _send(self, job_id: JobId, payload: Mapping[str, Any]) -> bool:
        pool = payload.get("pool", DEFAULT_POOL)  # absent: a scheduler of the release before offered it
        try:
            self._courier.send(job_id, traceparent=payload.get("traceparent"), pool=pool)
        except QueueUnavailable as error:
            if not self._is_outage:
                log.warning("broker.unavailable", reason=str(error))
            self._is_outage = True
            return False
        if self._is_outage:
            log.info("broker.restored")
        self._is_outage = False
        return True
