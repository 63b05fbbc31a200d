"""Offers waiting jobs to free workers; the message itself goes out through the outbox."""

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.log import get_logger

log = get_logger()


def dispatch(database: Database) -> None:
    with database.transaction() as tx:
        offered = jobs.offer(tx)
    for job_id in offered:
        log.info("job.offered", job_id=job_id)
