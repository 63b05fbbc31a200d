"""Objects that versions share: one that anything names, or that somebody lately came for, is never swept.

Who was first is decided in Postgres: a publication and a sweep that meet at an object wait for each other.
"""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from bitsmith_core import jobs, registry
from bitsmith_core.bundle import FileEntry, Manifest
from bitsmith_core.db import Database, Tx
from bitsmith_core.errors import FilesGone
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import S3Store
from bitsmith_scheduler.janitor import forget
from bitsmith_scheduler.settings import SchedulerSettings
from sqlalchemy import text

from tests.conftest import add_file
from tests.core.test_registry import manifest
from tests.worker.conftest import until

KEPT = timedelta(hours=48)
LONG_AGO = timedelta(hours=49)
A, B = (FileEntry(path=f"{digit}.bin", bytes=1, sha256=digit * 64) for digit in "ab")


@pytest.fixture
def clean_store(store: S3Store) -> Iterator[S3Store]:
    def remove_all() -> None:
        for found in list(store.list("blobs/")):
            store.delete(found.key)

    remove_all()
    yield store
    remove_all()


@pytest.fixture
def put(clean_store: S3Store, tmp_path: Path) -> Callable[..., None]:
    def put(*entries: FileEntry) -> None:
        (tmp_path / "object").write_bytes(b"x")
        for entry in entries:
            clean_store.put_file(registry.blobs.object_key(entry.sha256), tmp_path / "object")

    return put


def bundle(*entries: FileEntry) -> Manifest:
    return manifest().model_copy(update={"files": list(entries)})


def hold(database: Database, *entries: FileEntry, ago: timedelta = timedelta()) -> None:
    with database.transaction() as tx:
        registry.blobs.hold(tx, entries)
        age(tx, *entries, ago=ago)


def age(tx: Tx, *entries: FileEntry, ago: timedelta) -> None:
    keys = [registry.blobs.object_key(entry.sha256) for entry in entries]
    tx.execute(
        text("UPDATE blobs SET held_at = now() - :ago WHERE object_key = ANY(:keys)"), {"ago": ago, "keys": keys}
    )


def submit(database: Database) -> JobId:
    with database.transaction() as tx:
        spec = JobSpec(model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx))
        return jobs.submit(tx, spec, project=DEFAULT_PROJECT).id


def publish(tx: Tx, job_id: JobId, *entries: FileEntry) -> str:
    version = registry.publish(tx, project=DEFAULT_PROJECT, name="tiny", job_id=job_id, manifest=bundle(*entries))
    return f"{version.model.name}@{version.number}"


def stored(store: S3Store) -> set[str]:
    return {found.key[len("blobs/xx/")] for found in store.list("blobs/")}


def is_waiting(database: Database) -> bool:
    """Whether some statement waits for another's lock."""
    with database.transaction() as tx:
        return bool(tx.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")))


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_what_nobody_published_goes_when_it_was_held_long_ago(
    database: Database, clean_store: S3Store, put: Callable[..., None]
) -> None:
    hold(database, A, ago=LONG_AGO)
    hold(database, B, ago=timedelta(hours=47))
    put(A, B)
    assert registry.sweep(database, clean_store, older_than=KEPT) == 1
    assert stored(clean_store) == {"b"}
    with database.transaction() as tx:
        assert tx.scalar(text("SELECT string_agg(object_key, ' ') FROM blobs")) == f"blobs/bb/{B.sha256}"


def test_whoever_comes_for_an_old_object_keeps_it(
    database: Database, clean_store: S3Store, put: Callable[..., None]
) -> None:
    hold(database, A, ago=LONG_AGO)
    put(A)
    hold(database, A)
    assert registry.sweep(database, clean_store, older_than=KEPT) == 0
    with database.transaction() as tx:
        publish(tx, submit(database), A)
    assert stored(clean_store) == {"a"}


def test_what_a_version_names_stays_until_the_last_one_that_names_it_is_deleted(
    database: Database, clean_store: S3Store, put: Callable[..., None]
) -> None:
    hold(database, A, B, ago=LONG_AGO)
    put(A, B)
    first, second = submit(database), submit(database)
    with database.transaction() as tx:
        assert [publish(tx, first, A), publish(tx, second, A, B)] == ["tiny@1", "tiny@2"]
    for gone, left in ((None, {"a", "b"}), (2, {"a"}), (1, set())):
        if gone is not None:
            with database.transaction() as tx:
                registry.delete(tx, "tiny", gone, project=DEFAULT_PROJECT)
        registry.sweep(database, clean_store, older_than=KEPT)
        assert stored(clean_store) == left


def test_what_an_evaluation_names_stays(database: Database, clean_store: S3Store, put: Callable[..., None]) -> None:
    hold(database, A, B, ago=LONG_AGO)
    put(A, B)
    job_id = submit(database)
    with database.transaction() as tx:
        publish(tx, job_id, A)
        tx.execute(text("UPDATE evals SET items_key = :key"), {"key": registry.blobs.object_key(B.sha256)})
    assert registry.sweep(database, clean_store, older_than=KEPT) == 0
    assert stored(clean_store) == {"a", "b"}


def test_an_object_that_lost_its_row_goes_too(
    database: Database, clean_store: S3Store, put: Callable[..., None]
) -> None:
    put(A)
    assert registry.sweep(database, clean_store, older_than=KEPT) == 0, "it is young"
    assert registry.sweep(database, clean_store, older_than=timedelta(hours=-1)) == 1
    assert stored(clean_store) == set()


def test_files_that_nobody_holds_are_not_published(database: Database) -> None:
    hold(database, A)
    job_id = submit(database)
    refusal = re.escape("1 of 2 files are held no more, among them b.bin; send them again")
    with pytest.raises(FilesGone, match=refusal), database.transaction() as tx:
        publish(tx, job_id, A, B)
    with database.transaction() as tx:
        assert registry.count_versions(tx) == 0


def test_a_sweep_that_meets_a_publication_waits_for_it_and_takes_nothing(
    database: Database, clean_store: S3Store, put: Callable[..., None], aside: ThreadPoolExecutor
) -> None:
    hold(database, A, ago=LONG_AGO)
    put(A)
    job_id = submit(database)
    with database.transaction() as tx:
        publish(tx, job_id, A)
        swept = aside.submit(registry.sweep, database, clean_store, older_than=KEPT)
        until(lambda: is_waiting(database), what="the sweep's waiting")
        assert stored(clean_store) == {"a"}
    assert swept.result(timeout=30) == 0
    assert stored(clean_store) == {"a"}


class Slow(S3Store):
    """Its deletes wait for `go`."""

    def __init__(self, inner: S3Store) -> None:
        self.__dict__.update(inner.__dict__)
        self.is_deleting, self.go = threading.Event(), threading.Event()

    def delete(self, key: str) -> None:
        self.is_deleting.set()
        assert self.go.wait(30)
        super().delete(key)


@pytest.fixture
def sweeping(
    database: Database, clean_store: S3Store, put: Callable[..., None], aside: ThreadPoolExecutor
) -> Iterator[tuple[Slow, "Future[int]"]]:
    """A sweep in the middle of deleting A."""
    hold(database, A, ago=LONG_AGO)
    put(A)
    slow = Slow(clean_store)
    swept = aside.submit(registry.sweep, database, slow, older_than=KEPT)
    assert slow.is_deleting.wait(30)
    yield slow, swept
    slow.go.set()


def test_a_publication_that_meets_a_sweep_waits_for_it_and_is_refused(
    database: Database, clean_store: S3Store, sweeping: tuple[Slow, "Future[int]"]
) -> None:
    slow, swept = sweeping
    job_id = submit(database)

    def attempt() -> str:
        with database.transaction() as tx:
            return publish(tx, job_id, A)

    with ThreadPoolExecutor(1) as another:
        published = another.submit(attempt)
        until(lambda: is_waiting(database), what="the publication's waiting")
        slow.go.set()
        with pytest.raises(FilesGone):
            published.result(timeout=30)
    assert swept.result(timeout=30) == 1
    assert stored(clean_store) == set()
    with database.transaction() as tx:
        assert registry.count_versions(tx) == 0


def test_whoever_comes_for_an_object_that_is_being_swept_waits_and_finds_it_gone(
    database: Database, clean_store: S3Store, sweeping: tuple[Slow, "Future[int]"], put: Callable[..., None]
) -> None:
    slow, swept = sweeping

    def found_after_holding() -> bool:
        hold(database, A)
        return clean_store.stat(registry.blobs.object_key(A.sha256)) is not None

    with ThreadPoolExecutor(1) as another:
        found = another.submit(found_after_holding)
        until(lambda: is_waiting(database), what="the holder's waiting")
        assert stored(clean_store) == {"a"}, "it would have been taken for whole"
        slow.go.set()
        assert found.result(timeout=30) is False, "so it is sent anew"
    assert swept.result(timeout=30) == 1
    put(A)
    job_id = submit(database)
    with database.transaction() as tx:
        publish(tx, job_id, A)
    assert registry.sweep(database, clean_store, older_than=KEPT) == 0
    assert stored(clean_store) == {"a"}


def test_old_versions_go_with_their_own_files_where_that_is_set_and_not_by_default(
    database: Database, clean_store: S3Store, put: Callable[..., None]
) -> None:
    hold(database, A, B, ago=LONG_AGO)
    put(A, B)
    for entries in ((A, B), (B,)):
        job_id = submit(database)
        with database.transaction() as tx:
            publish(tx, job_id, *entries)
    for settings, left in ((SchedulerSettings(), {"a", "b"}), (SchedulerSettings(versions_kept=1), {"b"})):
        forget(database, settings)
        registry.sweep(database, clean_store, older_than=KEPT)
        assert stored(clean_store) == left
    with database.transaction() as tx:
        assert tx.execute(text("SELECT number, is_newest FROM versions")).all() == [(2, True)]
