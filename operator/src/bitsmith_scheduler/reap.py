"""Ends attempts whose worker went silent, so that their jobs wait again."""

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.log import get_logger

log = get_logger()


def reap(database: Database) -> None:
    with database.transaction() as tx:
        reaped = jobs.reap(tx)
    for job_id in reaped:
        log.warning("job.reaped", job_id=job_id)
