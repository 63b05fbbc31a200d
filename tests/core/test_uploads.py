"""Parts become one file if they are all there, in order and unharmed; otherwise nothing becomes of them."""

import hashlib
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from bitsmith_core import files, uploads
from bitsmith_core.db import Database, Tx
from bitsmith_core.errors import Conflict, InvalidFile, InvalidUpload
from bitsmith_core.ids import DEFAULT_PROJECT, UploadId
from bitsmith_core.storage import S3Store
from sqlalchemy import text

HOUR = timedelta(hours=1)
AT_ONCE = timedelta(seconds=-5)
LINE = b'{"prompt": "2 + 2?", "completion": "4"}\n'


def begun(tx: Tx, size_bytes: int, *, sha256: str | None = None, lifetime: timedelta = HOUR) -> UploadId:
    return uploads.create(
        tx,
        project=DEFAULT_PROJECT,
        filename="training.jsonl",
        purpose="fine-tune",
        mime_type="text/jsonl",
        size_bytes=size_bytes,
        sha256=sha256,
        lifetime=lifetime,
    ).id


def sent(tx: Tx, store: S3Store, path: Path, upload_id: UploadId, contents: Sequence[bytes]) -> list[str]:
    parts = uploads.add_parts(tx, upload_id, [len(content) for content in contents])
    for part, content in zip(parts, contents, strict=True):
        path.write_bytes(content)
        store.put_file(part.object_key, path)
    return [part.id for part in parts]


@pytest.mark.parametrize("at", [1, len(LINE) // 2, len(LINE), len(LINE) * 3 + 5])
def test_a_file_may_be_cut_anywhere(tx: Tx, store: S3Store, tmp_path: Path, at: int) -> None:
    content = LINE * 5 + b"%d" % at * 0
    upload_id = begun(tx, len(content))
    ids = sent(tx, store, tmp_path / "p", upload_id, [content[:at], content[at:]])
    plan = uploads.plan(tx, upload_id, ids)
    whole = uploads.check(store, plan)
    assert whole == uploads.Whole(sha256=hashlib.sha256(content).hexdigest(), examples=5)
    uploads.assemble(store, plan, whole)
    upload, file = uploads.complete(tx, plan, whole)
    assert (upload.status, upload.file_id) == ("completed", file.id)
    assert (file.bytes, file.examples, file.sha256) == (len(content), 5, whole.sha256)
    assert store.read(file.object_key, offset=0, length=len(content)) == content


def test_parts_larger_than_a_range_come_together_byte_for_byte(tx: Tx, store: S3Store, tmp_path: Path) -> None:
    content = b"".join(b'{"prompt": "%s", "completion": "x"}\n' % os.urandom(200_000).hex().encode() for _ in range(50))
    upload_id = begun(tx, len(content), sha256=hashlib.sha256(content).hexdigest())
    third = 17 * 2**20  # more than two ranges of 8 MiB
    ids = sent(tx, store, tmp_path / "p", upload_id, [content[third:], content[:third]])
    plan = uploads.plan(tx, upload_id, ids[::-1])
    whole = uploads.check(store, plan, md5=hashlib.md5(content).hexdigest())
    uploads.assemble(store, plan, whole)
    store.get_file(files.object_key(whole.sha256), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_the_same_content_is_stored_once(tx: Tx, store: S3Store, tmp_path: Path) -> None:
    digests = set()
    for contents in ([LINE * 2, LINE], [LINE, LINE * 2]):
        upload_id = begun(tx, 3 * len(LINE))
        plan = uploads.plan(tx, upload_id, sent(tx, store, tmp_path / "p", upload_id, contents))
        whole = uploads.check(store, plan)
        uploads.assemble(store, plan, whole)
        digests.add(uploads.complete(tx, plan, whole)[1].object_key)
    assert len(digests) == 1


def test_a_bad_line_is_named_by_its_number_in_the_whole(tx: Tx, store: S3Store, tmp_path: Path) -> None:
    contents = [LINE * 4, LINE * 2 + b"{oo", b"ps\n" + LINE]
    upload_id = begun(tx, sum(map(len, contents)))
    plan = uploads.plan(tx, upload_id, sent(tx, store, tmp_path / "p", upload_id, contents))
    with pytest.raises(InvalidFile, match=r"^line 7: not JSON"):
        uploads.check(store, plan)


@pytest.mark.parametrize("promise", ["sha256", "md5", "sha256 when it began"])
def test_a_digest_that_is_not_the_promised_one_is_refused(tx: Tx, store: S3Store, tmp_path: Path, promise: str) -> None:
    name, _, early = promise.partition(" ")
    wrong = {"sha256": "0" * 64, "md5": "0" * 32}[name]
    upload_id = begun(tx, len(LINE), sha256=wrong if early else None)
    plan = uploads.plan(tx, upload_id, sent(tx, store, tmp_path / "p", upload_id, [LINE]))
    with pytest.raises(InvalidUpload, match=f"not {wrong}") as caught:
        uploads.check(store, plan, **({} if early else {name: wrong}))
    assert [problem.pointer for problem in caught.value.problems] == [f"/{name}"]


def test_parts_must_be_known_named_once_and_add_up(tx: Tx, store: S3Store, tmp_path: Path) -> None:
    upload_id, other = begun(tx, 2 * len(LINE)), begun(tx, len(LINE))
    one, two = sent(tx, store, tmp_path / "p", upload_id, [LINE, LINE])
    [foreign] = sent(tx, store, tmp_path / "p", other, [LINE])
    for part_ids, pointers in (
        ([one, one], ["/part_ids/1"]),
        ([foreign, two, "nonsense"], ["/part_ids/0", "/part_ids/2"]),
        ([one], ["/part_ids"]),
    ):
        with pytest.raises(InvalidUpload) as caught:
            uploads.plan(tx, upload_id, part_ids)
        assert [problem.pointer for problem in caught.value.problems] == pointers


def test_a_part_that_never_came_or_came_short_is_named(tx: Tx, store: S3Store, tmp_path: Path) -> None:
    upload_id = begun(tx, 3 * len(LINE))
    good = sent(tx, store, tmp_path / "p", upload_id, [LINE])
    never, short = uploads.add_parts(tx, upload_id, [len(LINE), len(LINE)])
    store.put_file(short.object_key, tmp_path / "p")
    (tmp_path / "p").write_bytes(LINE[:-1])
    store.put_file(short.object_key, tmp_path / "p")
    plan = uploads.plan(tx, upload_id, [*good, never.id, short.id])
    with pytest.raises(InvalidUpload) as caught:
        uploads.check(store, plan)
    assert [problem.pointer for problem in caught.value.problems] == ["/part_ids/1", "/part_ids/2"]
    assert f"{len(LINE) - 1} bytes arrived" in caught.value.problems[1].detail


def test_a_part_that_is_changed_after_the_check_leaves_no_file(tx: Tx, store: S3Store, tmp_path: Path) -> None:
    content = LINE.replace(b"2 + 2", b"3 + 3")
    upload_id = begun(tx, 2 * len(content))
    plan = uploads.plan(tx, upload_id, sent(tx, store, tmp_path / "p", upload_id, [content, content]))
    whole = uploads.check(store, plan)
    (tmp_path / "p").write_bytes(content.replace(b"4", b"5"))
    store.put_file(plan.parts[1].key, tmp_path / "p")
    with pytest.raises(Conflict, match="changed"):
        uploads.assemble(store, plan, whole)
    assert store.stat(files.object_key(whole.sha256)) is None


def test_nobody_sends_much_more_than_was_announced(tx: Tx) -> None:
    upload_id = begun(tx, 100 * 2**20)
    uploads.add_parts(tx, upload_id, [64 * 2**20] * 4)
    with pytest.raises(InvalidUpload, match="5 parts"):
        uploads.add_parts(tx, upload_id, [64 * 2**20])


def test_completing_twice_gives_the_same_file(tx: Tx, store: S3Store, tmp_path: Path) -> None:
    upload_id = begun(tx, len(LINE))
    ids = sent(tx, store, tmp_path / "p", upload_id, [LINE])
    first_plan, second_plan = uploads.plan(tx, upload_id, ids), uploads.plan(tx, upload_id, ids)
    whole = uploads.check(store, first_plan)
    _, file = uploads.complete(tx, first_plan, whole)
    _, again = uploads.complete(tx, second_plan, whole)
    assert again.id == file.id
    assert uploads.plan(tx, upload_id, ids).is_done
    assert len(files.page(tx, project=DEFAULT_PROJECT, limit=5)) == 1


def test_what_is_over_takes_no_part_and_becomes_no_file(tx: Tx, store: S3Store, tmp_path: Path) -> None:
    upload_id = begun(tx, len(LINE))
    ids = sent(tx, store, tmp_path / "p", upload_id, [LINE])
    plan = uploads.plan(tx, upload_id, ids)
    assert uploads.cancel(tx, upload_id).status == uploads.cancel(tx, upload_id).status == "cancelled"
    for refused in (
        lambda: uploads.add_parts(tx, upload_id, [1]),
        lambda: uploads.plan(tx, upload_id, ids),
        lambda: uploads.complete(tx, plan, uploads.Whole(sha256="0" * 64, examples=1)),
    ):
        with pytest.raises(Conflict, match="is cancelled; create a new upload"):
            refused()


def test_an_overdue_upload_has_expired(tx: Tx) -> None:
    upload_id = begun(tx, 1, lifetime=timedelta(0))
    assert uploads.get(tx, upload_id).status == "expired"
    with pytest.raises(Conflict, match="is expired"):
        uploads.cancel(tx, upload_id)


def test_parts_of_what_is_over_are_swept(database: Database, store: S3Store, tmp_path: Path) -> None:
    with database.transaction() as tx:
        alive, overdue, cancelled = begun(tx, len(LINE)), begun(tx, len(LINE)), begun(tx, len(LINE))
        for upload_id in (alive, overdue, cancelled):
            sent(tx, store, tmp_path / "p", upload_id, [LINE])
        uploads.cancel(tx, cancelled)
    late = text("UPDATE uploads SET expires_at = now() - interval '1 minute' WHERE id = :id")
    with database.transaction() as tx:
        tx.execute(late, {"id": overdue})

    def left(upload_id: UploadId) -> int:
        return len(list(store.list(f"uploads/{upload_id}/")))

    uploads.sweep(database, store, older_than=timedelta(hours=48))
    assert [left(alive), left(overdue), left(cancelled)] == [1, 0, 1]
    uploads.sweep(database, store, older_than=AT_ONCE)
    assert [left(alive), left(overdue), left(cancelled)] == [1, 0, 0]
    with database.transaction() as tx:
        assert uploads.get(tx, overdue).status == "expired"
