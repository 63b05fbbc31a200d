"""Offers waiting jobs to free workers, the fairest first; the message itself goes out through the outbox."""

import time

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.jobs import Policy
from bitsmith_core.log import get_logger

log = get_logger()


def dispatch(database: Database, *, policy: Policy | None = None) -> None:
    with database.transaction() as tx:
        offered = jobs.offer(tx) if policy is None else jobs.offer(tx, policy=policy)
    for job_id in offered:
        log.info("job.offered", job_id=job_id)


class UsageMeter:
    """Samples what projects use, every few seconds."""

    def __init__(self, database: Database, policy: Policy, *, every_s: float) -> None:
        self._database, self._policy, self._every_s = database, policy, every_s
        self._due = time.monotonic()

    def sample(self) -> None:
        if time.monotonic() < self._due:
            return
        with self._database.transaction() as tx:
            jobs.sample_usage(tx, policy=self._policy)
        self._due = time.monotonic() + self._every_s
