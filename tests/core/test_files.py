"""What a file may hold, who may still need it, and when its bytes go."""

import gzip
import io
import pickle
import tarfile
import zipfile
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from bitsmith_core import files, jobs
from bitsmith_core.db import Database, Tx
from bitsmith_core.errors import Conflict, InvalidFile, InvalidSpec, NotFound, StoreUnavailable
from bitsmith_core.ids import DEFAULT_PROJECT, FileId, JobId
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import S3Store
from sqlalchemy import text

from tests.conftest import add_file

EXAMPLE = b'{"prompt": "2 + 2?", "completion": "4"}\n'
AT_ONCE = timedelta(seconds=-5)  # older than the future: everything
LONG_AGO = timedelta(hours=48)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("training.jsonl", b"0" * 10_000_000)  # a small bomb: 10 MB in 10 kB
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../etc/passwd"))
    return buffer.getvalue()


class Explodes:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zipped(), "a zip archive"),
        (gzip.compress(EXAMPLE), "a gzip archive"),
        (tarred(), "a tar archive"),
        (pickle.dumps(Explodes(), protocol=4), "a Python pickle, not JSON Lines in UTF-8; it is never opened"),
        (b"PAR1\x15\x04", "a Parquet file"),
        ((100).to_bytes(8, "little") + b'{"__metadata__": {}}', "a safetensors file"),
        (b"GGUF\x03\0\0\0", "a GGUF model"),
        (b"\xef\xbb\xbf" + EXAMPLE, "byte order mark"),
        (EXAMPLE.decode().encode("utf-16"), "UTF-16"),
        (EXAMPLE.decode().encode("utf-32"), "UTF-32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.failure("malformed input")
def test_what_is_not_json_lines_is_called_by_its_name(content: bytes, said: str) -> None:
    with pytest.raises(InvalidFile, match=r"^line 1: this is") as caught:
        files.validate(io.BytesIO(content), "fine-tune")
    [problem] = caught.value.problems
    assert (problem.pointer, problem.code) == ("line 1", "not_json_lines")
    assert said in problem.detail


@pytest.mark.failure("malformed input")
def test_a_line_without_end_is_refused_in_little_memory() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            count = min(len(buffer), 50_000_000 - self.given)
            buffer[:count] = b"x" * count
            self.given += count
            return count

    with pytest.raises(InvalidFile, match="line 1: the line is longer than"):
        files.validate(io.BufferedReader(Endless()), "fine-tune")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\\b", "..", ".", "", "a\0b", "a\nb", "a\u202eb", "x" * 256])
@pytest.mark.failure("malformed input")
def test_a_name_is_a_plain_name(name: str) -> None:
    with pytest.raises(InvalidFile, match="is not a file name"):
        files.check_name(name)


def ids(tx: Tx, **window: Any) -> list[FileId]:
    return [file.id for file in files.page(tx, project=DEFAULT_PROJECT, **{"limit": 10, **window})]


def test_a_page_begins_behind_or_ends_ahead_of_a_file_in_either_order(tx: Tx) -> None:
    a, b, c, d, e = sorted(add_file(tx) for _ in range(5))
    assert ids(tx) == [e, d, c, b, a]
    assert ids(tx, order="asc") == [a, b, c, d, e]
    assert ids(tx, after=d, limit=2) == [c, b]
    assert ids(tx, after=b, limit=2, order="asc") == [c, d]
    assert ids(tx, before=b, limit=2) == [d, c]
    assert ids(tx, before=d, limit=2, order="asc") == [b, c]
    assert ids(tx, after=e, before=b) == [d, c]


def test_a_page_may_hold_one_purpose_only(tx: Tx) -> None:
    add_file(tx)
    pack = add_pack(tx)
    assert ids(tx, purpose="evals") == [pack]
    assert ids(tx, purpose="assistants") == []


def add_pack(tx: Tx) -> FileId:
    return files.add(
        tx, project=DEFAULT_PROJECT, filename="p", purpose="evals", size_bytes=1, sha256="1" * 64, examples=1
    ).id


def with_pack(spec: JobSpec, pack: FileId) -> JobSpec:
    benchmark = {"task": "piqa", "file": pack}
    method = {"type": "qsft", "qsft": {"evaluation": {"benchmarks": [benchmark]}}}
    return JobSpec.model_validate({**spec.model_dump(mode="json"), "method": method})


def test_a_file_that_a_job_needs_is_not_deleted_until_the_job_is_over(tx: Tx, spec: JobSpec) -> None:
    pack, free = add_pack(tx), add_file(tx)
    job = jobs.submit(tx, with_pack(spec, pack), project=DEFAULT_PROJECT)
    assert spec.training_file is not None
    assert spec.validation_file is not None
    needed = [FileId(spec.training_file), FileId(spec.validation_file), pack]
    files.delete(tx, free)
    for status in ("queued", "paused"):
        assert job.status == status
        for file_id in needed:
            with pytest.raises(Conflict, match=f"job {job.id} needs {file_id}"):
                files.delete(tx, file_id)
        jobs.pause(tx, job.id)
    jobs.cancel(tx, job.id)
    for file_id in needed:
        files.delete(tx, file_id)
        with pytest.raises(NotFound):
            files.delete(tx, file_id)
    assert ids(tx) == []
    with pytest.raises(InvalidSpec, match="there is no file"):
        jobs.submit(tx, spec, project=DEFAULT_PROJECT)


def test_a_job_that_is_being_submitted_keeps_its_files(database: Database) -> None:
    """A deletion that begins after the job's check and before its commit waits, and then sees the job."""
    with database.transaction() as tx:
        training, validation = add_file(tx), add_file(tx)
    spec = JobSpec(model="hf:org/tiny", training_file=training, validation_file=validation)
    outcome: list[object] = []
    deleting = Event()

    def delete() -> None:
        try:
            with database.transaction() as tx:
                tx.execute(text("SELECT 1"))
                deleting.set()
                files.delete(tx, training)
            outcome.append("deleted")
        except Conflict as error:
            outcome.append(error)

    with database.transaction() as tx:
        jobs.check(tx, spec, project=DEFAULT_PROJECT)
        thread = Thread(target=delete)
        thread.start()
        deleting.wait(10)
        wait_until_blocked(database)
        job_id: JobId = jobs.submit(tx, spec, project=DEFAULT_PROJECT).id
    thread.join(10)
    assert [str(error) for error in outcome] == [str(outcome[0])]
    assert f"job {job_id} needs" in str(outcome[0])


def test_a_job_that_is_submitted_during_a_deletion_is_refused(database: Database) -> None:
    with database.transaction() as tx:
        training, validation = add_file(tx), add_file(tx)
    spec = JobSpec(model="hf:org/tiny", training_file=training, validation_file=validation)
    outcome: list[object] = []

    def submit() -> None:
        try:
            with database.transaction() as tx:
                outcome.append(jobs.submit(tx, spec, project=DEFAULT_PROJECT).id)
        except InvalidSpec as error:
            outcome.append(error)

    with database.transaction() as tx:
        files.delete(tx, training)
        thread = Thread(target=submit)
        thread.start()
        wait_until_blocked(database)
    thread.join(10)
    [refusal] = outcome
    assert isinstance(refusal, InvalidSpec)
    assert [problem.pointer for problem in refusal.problems] == ["/training_file"]


def wait_until_blocked(database: Database) -> None:
    blocked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    for _ in range(1000):
        with database.transaction() as tx:
            if tx.scalar(blocked):
                return
            tx.execute(text("SELECT pg_sleep(0.01)"))
    raise AssertionError("nobody waits")


def stored(database: Database, store: S3Store, path: Path, content: bytes) -> files.File:
    path.write_bytes(content)
    sha256 = files.store_bytes(store, path)
    with database.transaction() as tx:
        return files.add(
            tx, project=DEFAULT_PROJECT, filename="f", purpose="fine-tune", size_bytes=1, sha256=sha256, examples=1
        )


def test_bytes_are_swept_when_no_file_names_them_any_more(database: Database, store: S3Store, tmp_path: Path) -> None:
    first = stored(database, store, tmp_path / "f", b"both")
    second = stored(database, store, tmp_path / "f", b"both")
    kept = stored(database, store, tmp_path / "f", b"kept")
    assert first.object_key == second.object_key
    with database.transaction() as tx:
        files.delete(tx, first.id)
    files.sweep(database, store, older_than=AT_ONCE)
    assert store.stat(first.object_key) is not None
    with database.transaction() as tx:
        files.delete(tx, second.id)
    assert files.sweep(database, store, older_than=LONG_AGO) == 0
    assert files.sweep(database, store, older_than=AT_ONCE) == 1
    assert store.stat(first.object_key) is None
    assert store.stat(kept.object_key) is not None


def test_bytes_that_a_row_is_coming_for_are_not_swept(database: Database, store: S3Store, tmp_path: Path) -> None:
    file = stored(database, store, tmp_path / "f", b"again")
    with database.transaction() as tx:
        files.delete(tx, file.id)
    with database.transaction() as tx:
        again = files.add(
            tx, project=DEFAULT_PROJECT, filename="f", purpose="fine-tune", size_bytes=1, sha256=file.sha256, examples=1
        )
        thread = Thread(target=files.sweep, args=(database, store), kwargs={"older_than": AT_ONCE})
        thread.start()
        wait_until_blocked(database)
        files.check_stored(store, again)
    thread.join(10)
    files.check_stored(store, again)


def test_a_row_without_bytes_is_not_written(tx: Tx, store: S3Store) -> None:
    lost = files.get(tx, add_file(tx))
    with pytest.raises(StoreUnavailable):
        files.check_stored(store, lost)
