"""What a pool asks for costs nothing of what waits in others. Apart, for it changes every row of what it asks about."""

from bitsmith_core import jobs
from bitsmith_core.db import Tx
from sqlalchemy import text

from tests.api.test_query_plans import MOST_PAGES, explain, full  # noqa: F401  # a fixture


def test_a_pool_with_nothing_to_do_costs_little_however_many_jobs_wait_in_others(full: Tx) -> None:  # noqa: F811
    """Its free workers are asked for twice a second."""
    full.execute(text("UPDATE jobs SET status = 'queued', lease_token = NULL, pool = 'l40s' WHERE status <> 'queued'"))
    jobs.workers.report(full, name="large", device="cuda", local_models=[], pool="h100")
    full.execute(text("UPDATE workers SET is_draining = true WHERE name <> 'large'"))
    for explained in explain(full, jobs.offer):
        assert explained.pages < MOST_PAGES, explained.told()
