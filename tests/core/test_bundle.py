"""A bundle's identity depends on its files and nothing else."""

import hashlib
from pathlib import Path

from bitsmith_core.bundle import MANIFEST, describe_files, files_sha256


def fill(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_files_are_described_without_the_manifest(tmp_path: Path) -> None:
    fill(tmp_path, {"b/x.bin": b"123", "a.json": b"{}", MANIFEST: b"ignored"})
    found = describe_files(tmp_path)
    assert [(entry.path, entry.bytes) for entry in found] == [("a.json", 2), ("b/x.bin", 3)]
    assert found[1].sha256 == hashlib.sha256(b"123").hexdigest()


def test_the_digest_changes_with_a_byte_and_not_with_the_order(tmp_path: Path) -> None:
    one = describe_files(fill(tmp_path / "one", {"a": b"1", "b": b"2"}))
    two = describe_files(fill(tmp_path / "two", {"a": b"1", "b": b"3"}))
    assert files_sha256(one) == files_sha256(one[::-1])
    assert files_sha256(one) != files_sha256(two)
