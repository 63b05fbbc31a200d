"""Deletes what nobody can want any more: old checkpoints, logs and answers, and objects that no row names. And tallies.

It looks through the whole store, which may take minutes, in a thread of its own. What it deletes is old and unnamed, so
that two of them at once, or one that dies half-way, do no harm.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import groupby
from types import TracebackType
from typing import Self

from bitsmith_core import files, identity, jobs, registry, uploads
from bitsmith_core.clock import utc_now
from bitsmith_core.db import Database, Tx
from bitsmith_core.errors import DatabaseUnavailable, NotFound, StoreUnavailable
from bitsmith_core.ids import JobId
from bitsmith_core.log import get_logger
from bitsmith_core.registry import retention
from bitsmith_core.storage import ObjectInfo, ObjectStore

from bitsmith_scheduler.settings import SchedulerSettings

log = get_logger()

JOBS = "jobs/"
WORKERS_KEPT = timedelta(days=1)  # since they were last heard of


class Janitor:
    """Works while `leads` is set."""

    def __init__(
        self, database: Database, store: ObjectStore, settings: SchedulerSettings, *, leads: threading.Event
    ) -> None:
        self._database, self._store, self._settings, self._leads = database, store, settings, leads
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(5.0)

    def clean(self, *, now: datetime) -> None:
        """One look at everything.

        Raises:
            DatabaseUnavailable, StoreUnavailable: the rest is for the next look.
        """
        with self._database.transaction() as tx:
            jobs.figures.tally(tx)
        forget(self._database, self._settings)
        orphans = timedelta(seconds=self._settings.orphans_kept_s)
        swept = {
            "job_objects": sweep_jobs(self._database, self._store, older_than=now - orphans),
            "version_objects": registry.sweep(self._database, self._store, older_than=orphans),
            "file_objects": files.sweep(self._database, self._store, older_than=orphans),
            "upload_parts": uploads.sweep(self._database, self._store, older_than=orphans),
        }
        if any(swept.values()):
            log.info("store.swept", **swept)

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._leads.wait(1.0):
                continue
            try:
                self.clean(now=utc_now())
            except (DatabaseUnavailable, StoreUnavailable, NotFound) as error:
                log.warning("janitor.interrupted", reason=str(error))
            except Exception:  # a thread's outermost edge
                log.exception("janitor.broke")
            self._stopped.wait(self._settings.janitor_every_s)


def forget(database: Database, settings: SchedulerSettings) -> None:
    """Rows whose time is over; their objects are orphans from now on."""
    checkpoints, logs, answers = (
        timedelta(seconds=kept_s)
        for kept_s in (settings.checkpoints_kept_s, settings.logs_kept_s, settings.answers_kept_s)
    )
    forgotten = {
        "checkpoints": _all(database, lambda tx: jobs.retention.forget_checkpoints(tx, finished_before=checkpoints)),
        "log_chunks": _all(database, lambda tx: jobs.retention.forget_logs(tx, finished_before=logs)),
        "answers": _all(database, lambda tx: identity.forget_answers(tx, older_than=answers)),
        "workers": _all(database, lambda tx: jobs.workers.forget(tx, unseen_for=WORKERS_KEPT)),
    }
    if any(forgotten.values()):
        log.info("rows.forgotten", **forgotten)
    if settings.versions_kept is not None:
        forget_versions(database, keep=settings.versions_kept)


def forget_versions(database: Database, *, keep: int) -> None:
    """Behind the newest so many of each model, those that nobody has asked for, each in a transaction of its own."""
    with database.transaction() as tx:
        found = retention.old(tx, keep=keep)
    for version in found:
        with database.transaction() as tx:
            was_forgotten = retention.forget(tx, version, keep=keep)
        if was_forgotten:
            log.info("version.forgotten", version=version.name, project=version.project)


def _all(database: Database, forget_some: Callable[[Tx], int]) -> int:
    """In short transactions, until nothing is left to forget; answers how much was."""
    total = 0
    while True:
        with database.transaction() as tx:
            count = forget_some(tx)
        if not count:
            return total
        total += count


def sweep_jobs(database: Database, store: ObjectStore, *, older_than: datetime) -> int:
    """Delete objects of attempts that are that old and that no checkpoint, log, version or running attempt names."""
    swept = 0
    for job_id, found in _by_job(store.list(JOBS)):
        old = [info.key for info in found if info.modified_at is not None and info.modified_at < older_than]
        if not old:
            continue
        with database.transaction() as tx:
            referenced = jobs.retention.referenced(tx, job_id)
        for key in old:
            if not referenced.covers(key):
                store.delete(key)
                swept += 1
    return swept


def _by_job(found: Iterator[ObjectInfo]) -> Iterator[tuple[JobId, list[ObjectInfo]]]:
    """A store lists its keys in order, so that the objects of one job follow each other."""
    for name, infos in groupby(found, key=lambda info: info.key.split("/")[1]):
        yield JobId(name), list(infos)
