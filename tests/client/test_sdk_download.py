"""What lies under a file's name is what the registry promised, or nothing."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from bitsmith_client.sdk import ApiError, Bitsmith, CorruptDownload, ModelFile, Version, transport
from bitsmith_core.bundle import FileEntry, files_sha256

from .conftest import Request, Serve

Client = Callable[[str], Bitsmith]

WEIGHTS = bytes(range(256)) * 40
CONTENT = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "bf16/empty.txt": b""}


def version(url: str, content: dict[str, bytes] = CONTENT, *, token: str = "fresh") -> Version:
    files = [
        ModelFile(
            path=path,
            bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            download_url=f"{url}/s3/{path}?token={token}",
        )
        for path, body in content.items()
    ]
    digest = files_sha256([FileEntry(path=f.path, bytes=f.bytes, sha256=f.sha256) for f in files])
    return Version.model_validate(
        {
            "id": "m@1", "model": "m", "version": 1, "job_id": "j", "created_at": 0, "bytes": 1, "bpw_codes": 3,
            "bpw_effective": 3.5, "manifest_sha256": digest, "files": [file.model_dump() for file in files],
        }
    )  # fmt: skip


def s3(content: dict[str, bytes]) -> Callable[[Request, int], None]:
    def answer(request: Request, before: int) -> None:
        assert "Authorization" not in request.headers  # the link is signed; two credentials are refused
        body = content[request.path.removeprefix("/s3/").partition("?")[0]]
        if "Range" not in request.headers:
            return request.answer(200, body)
        first, last = (int(part) for part in request.headers["Range"].removeprefix("bytes=").split("-"))
        return request.answer(206, body[first : last + 1])

    return answer


def test_every_file_arrives_with_its_bytes(serve: Serve, client: Client, tmp_path: Path) -> None:
    server = serve(s3(CONTENT))
    paths = client(server.url).models.download(version(server.url), tmp_path / "m")
    assert {path.relative_to(tmp_path / "m").as_posix(): path.read_bytes() for path in paths} == CONTENT
    assert not list(tmp_path.rglob("*.part"))


def test_one_corrupted_byte_is_found_and_nothing_is_kept(serve: Serve, client: Client, tmp_path: Path) -> None:
    damaged = bytearray(WEIGHTS)
    damaged[1234] ^= 1
    server = serve(s3({**CONTENT, "model.safetensors": bytes(damaged)}))
    with pytest.raises(CorruptDownload, match=r"model\.safetensors of m@1"):
        client(server.url).models.download(version(server.url), tmp_path)
    assert [path.name for path in tmp_path.rglob("*.s*")] == []
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_complete_is_not_fetched_again_and_what_was_changed_is(
    serve: Serve, client: Client, tmp_path: Path
) -> None:
    server = serve(s3(CONTENT))
    client(server.url).models.download(version(server.url), tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"a": 2}')
    server.requests.clear()
    client(server.url).models.download(version(server.url), tmp_path)
    assert [request.path for request in server.requests] == ["/s3/config.json?token=fresh"]
    assert (tmp_path / "config.json").read_bytes() == CONTENT["config.json"]


def test_a_download_goes_on_where_it_broke(
    serve: Serve, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "RANGE_BYTES", 4096)
    (tmp_path / "model.safetensors.part").write_bytes(WEIGHTS[:5000])
    server = serve(s3(CONTENT))
    client(server.url).models.download(version(server.url), tmp_path, wanted=lambda path: path.startswith("model"))
    assert [r.headers["Range"] for r in server.requests] == ["bytes=5000-9095", "bytes=9096-10239"]
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS


def test_an_expired_link_is_asked_for_again(serve: Serve, client: Client, tmp_path: Path) -> None:
    def answer(request: Request, before: int) -> None:
        if request.path.startswith("/v1/"):
            request.answer_json(200, version(server.url).model_dump(mode="json"))
        elif "token=stale" in request.path:
            request.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        else:
            s3(CONTENT)(request, before)

    server = serve(answer)
    client(server.url).models.download(version(server.url, token="stale"), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS


def test_an_object_that_is_gone_is_said(serve: Serve, client: Client, tmp_path: Path) -> None:
    server = serve(lambda request, before: request.answer(404, b""))
    with pytest.raises(ApiError, match="refused the download link"):
        client(server.url).models.download(version(server.url), tmp_path)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_a_registry_cannot_choose_where_we_write(client: Client, tmp_path: Path, path: str) -> None:
    with pytest.raises(CorruptDownload, match="outside the folder"):
        client("http://127.0.0.1:1").models.download(version("http://127.0.0.1:1", {path: b"x"}), tmp_path / "m")
    assert not (tmp_path / "outside").exists()


def test_a_list_of_files_that_does_not_match_the_digest_is_refused(client: Client, tmp_path: Path) -> None:
    forged = version("http://127.0.0.1:1").model_copy(update={"manifest_sha256": "0" * 64})
    with pytest.raises(CorruptDownload, match="its digest"):
        client("http://127.0.0.1:1").models.download(forged, tmp_path)
