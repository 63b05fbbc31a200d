"""The store keeps what it is given, against a real S3 server."""

import hashlib
import io
import os
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bitsmith_core.errors import NotFound, StoreUnavailable
from bitsmith_core.settings import StorageSettings
from bitsmith_core.storage import S3Store
from pydantic import SecretStr

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 16 * 2**20, 16 * 2**20 + 1])
def test_a_file_comes_back_as_it_went(store: S3Store, tmp_path: Path, size: int) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(os.urandom(size))
    store.put_file(f"round-trip/{size}", there)
    store.get_file(f"round-trip/{size}", back)
    assert digest(back) == digest(there)
    found = store.stat(f"round-trip/{size}")
    assert found is not None
    assert found.bytes == size


def test_what_is_not_there_is_not_found(store: S3Store, tmp_path: Path) -> None:
    assert store.stat("absent") is None
    with pytest.raises(NotFound):
        store.get_file("absent", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    store.delete("absent")


def test_listing_is_by_prefix(store: S3Store, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    for key in ("list/a", "list/b/c", "other"):
        store.put_file(key, file)
    assert [(found.key, found.bytes) for found in store.list("list/")] == [("list/a", 3), ("list/b/c", 3)]
    store.delete("list/a")
    assert [found.key for found in store.list("list/")] == ["list/b/c"]


def test_a_presigned_link_needs_no_key_and_cannot_be_bent(store: S3Store, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"hello")
    store.put_file("links/a", file)
    store.put_file("links/b", file)
    link = store.presigned_get("links/a", expires=timedelta(minutes=1), filename="näme.bin")
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"hello"
        assert "n%C3%A4me.bin" in answer.headers["Content-Disposition"]
    with pytest.raises(urllib.error.HTTPError, match="403") as caught:
        urllib.request.urlopen(link.replace("links/a", "links/b"))
    caught.value.close()


def test_a_wrong_key_is_unavailable_not_absent(storage_settings: StorageSettings, store: S3Store) -> None:
    stranger = S3Store(storage_settings.model_copy(update={"secret_key": SecretStr("wrong")}))
    with pytest.raises(StoreUnavailable):
        stranger.stat("anything")


@pytest.mark.parametrize("size", [0, 1, 16 * 2**20 + 1])
def test_a_stream_is_put_whole_and_read_in_ranges(store: S3Store, size: int) -> None:
    content = os.urandom(size)
    store.put_stream(f"streams/{size}", io.BytesIO(content), size_bytes=size)
    found = store.stat(f"streams/{size}")
    assert found is not None
    assert found.bytes == size
    middle = size // 2
    for offset, length in ((0, 1), (middle, size - middle)):
        if length and size:
            assert store.read(f"streams/{size}", offset=offset, length=length) == content[offset : offset + length]


def test_a_stream_that_breaks_leaves_no_object(store: S3Store) -> None:
    class Breaks(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: "WriteableBuffer", /) -> int:
            if self.given > 16 * 2**20:
                raise ValueError("the source broke")
            with memoryview(buffer).cast("B") as room:
                self.given += len(room)
                return len(room)

    with pytest.raises(ValueError, match="the source broke"):
        store.put_stream("streams/broken", io.BufferedReader(Breaks()), size_bytes=40 * 2**20)
    assert store.stat("streams/broken") is None


def test_what_is_put_by_link_is_there(store: S3Store) -> None:
    link = store.presigned_put("links/put", expires=timedelta(minutes=1))
    with urllib.request.urlopen(urllib.request.Request(link, data=b"hello", method="PUT")) as answer:
        assert answer.status == 200
    assert store.read("links/put", offset=1, length=3) == b"ell"
    stranger = urllib.request.Request(link.replace("links/put", "links/other"), data=b"hello", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="403") as caught:
        urllib.request.urlopen(stranger)
    caught.value.close()


def test_an_object_tells_its_age(store: S3Store, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    store.put_file("ages/now", file)
    for found in (store.stat("ages/now"), next(iter(store.list("ages/")))):
        assert found is not None
        assert found.modified_at is not None
        assert abs(datetime.now(UTC) - found.modified_at) < timedelta(minutes=1)
