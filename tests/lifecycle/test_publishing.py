"""A worker dies between its upload and its publication: nothing is visible, and in the end nothing is left over."""

from datetime import timedelta

import pytest
from bitsmith_core import registry
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.jobs import JobStatus
from sqlalchemy import text

from tests.worker.conftest import Platform, family, until

KEPT = timedelta(hours=48)


@pytest.mark.failure("worker killed")
def test_a_worker_that_dies_before_it_publishes_leaves_only_what_the_janitor_takes(platform: Platform) -> None:
    """Its last statement waits for a table that the test holds, while its files lie complete in the store."""
    for found in list(platform.store.list("blobs/")):
        platform.store.delete(found.key)

    def waits_to_publish() -> bool:
        with platform.database.transaction() as tx:
            waiting = text("SELECT count(*) FROM pg_locks WHERE relation = 'versions'::regclass AND NOT granted")
            return bool(tx.scalar(waiting))

    platform.scheduler()
    worker = platform.worker("w1")
    with platform.database.transaction() as tx:
        tx.execute(text("LOCK TABLE versions IN EXCLUSIVE MODE"))  # lets others read
        job_id = platform.submit()
        until(waits_to_publish, within_s=60, what="the worker's publication")
        for process in family(worker):
            process.kill()
    uploaded = {found.key for found in platform.store.list("blobs/")}
    assert len(uploaded) == 4
    assert platform.versions() == 0

    platform.worker("w2")
    platform.until_status(job_id, JobStatus.SUCCEEDED)
    assert platform.outcomes(job_id) == ["infra", "succeeded"]
    with platform.database.transaction() as tx:
        version = registry.get_version(tx, "base-qsft", 1, project=DEFAULT_PROJECT)
        named = {file.object_key for file in version.files}
        tx.execute(text("UPDATE blobs SET held_at = held_at - interval '47 hours'"))
    assert registry.sweep(platform.database, platform.store, older_than=KEPT) == 0
    with platform.database.transaction() as tx:
        tx.execute(text("UPDATE blobs SET held_at = held_at - interval '1 hour'"))
    assert registry.sweep(platform.database, platform.store, older_than=KEPT) == len(uploaded - named) == 1
    assert {found.key for found in platform.store.list("blobs/")} == named
