"""A large file comes in parts, through the API or straight into the store, and is checked like any other."""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import openai
import pytest
from bitsmith_client.sdk import ApiError, Bitsmith
from bitsmith_core.db import Database
from bitsmith_core.ids import new_upload_id
from bitsmith_core.settings import StorageSettings
from bitsmith_core.storage import S3Store
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import AUTHORIZED, EXAMPLE, KEY, Platform, application, assert_problem

CONTENT = b"".join(b'{"prompt": "%d + 1?", "completion": "%d"}\n' % (n, n + 1) for n in range(40))
REQUEST = {"bytes": len(CONTENT), "filename": "training.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
MIDDLE = len(CONTENT) // 2 + 7


def begin(client: TestClient, **changes: Any) -> str:
    answer = client.post("/v1/uploads", json={**REQUEST, **changes})
    assert answer.status_code == 200, answer.text
    upload_id: str = answer.json()["id"]
    return upload_id


def send(client: TestClient, upload_id: str, content: bytes) -> str:
    answer = client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("part", content)})
    assert answer.status_code == 200, answer.text
    part_id: str = answer.json()["id"]
    return part_id


def complete(client: TestClient, upload_id: str, part_ids: list[str], **more: Any) -> httpx.Response:
    answer: Any = client.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": part_ids, **more})
    found: httpx.Response = answer
    return found


def left(store: S3Store, upload_id: str) -> int:
    return len(list(store.list(f"uploads/{upload_id}/")))


def test_parts_become_a_file_that_jobs_can_use(client: TestClient, store: S3Store) -> None:
    upload_id = begin(client)
    second, first = send(client, upload_id, CONTENT[MIDDLE:]), send(client, upload_id, CONTENT[:MIDDLE])
    pending = client.get(f"/v1/uploads/{upload_id}").json()
    assert (pending["object"], pending["status"], pending["file"]) == ("upload", "pending", None)
    assert pending["expires_at"] - pending["created_at"] == 3600

    done = complete(client, upload_id, [first, second], md5=hashlib.md5(CONTENT).hexdigest()).json()
    file = done["file"]
    assert (done["id"], done["status"]) == (upload_id, "completed")
    assert (file["bytes"], file["examples"], file["sha256"]) == (len(CONTENT), 40, hashlib.sha256(CONTENT).hexdigest())
    assert client.get(f"/v1/files/{file['id']}").json() == file
    assert store.read(f"files/sha256/{file['sha256']}", offset=0, length=len(CONTENT)) == CONTENT
    assert left(store, upload_id) == 0
    assert client.get(f"/v1/uploads/{upload_id}").json() == done

    other = client.post("/v1/files", files={"file": ("v.jsonl", EXAMPLE)}, data={"purpose": "fine-tune"}).json()
    spec = {"model": "hf:org/tiny", "training_file": file["id"], "validation_file": other["id"]}
    assert client.post("/v1/fine_tuning/jobs", json=spec).status_code == 200


def test_completing_again_answers_the_same_file(client: TestClient) -> None:
    upload_id = begin(client)
    part = send(client, upload_id, CONTENT)
    answers = [complete(client, upload_id, [part]).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(client.get("/v1/files").json()["data"]) == 1


def test_parts_may_go_straight_into_the_store(client: TestClient) -> None:
    upload_id = begin(client, sha256=hashlib.sha256(CONTENT).hexdigest().upper())
    parts = [CONTENT[:MIDDLE], CONTENT[MIDDLE:]]
    answer = client.post(f"/v1/uploads/{upload_id}/part_urls", json={"bytes": [len(part) for part in parts]})
    links = answer.json()["data"]
    assert [(link["object"], link["bytes"]) for link in links] == [("upload.part", len(part)) for part in parts]
    ids = [link["id"] for link in links]
    assert_problem(complete(client, upload_id, ids), 422, "invalid_upload", "/part_ids/0", "/part_ids/1")
    for link, part in zip(links, parts, strict=True):
        assert httpx.put(link["url"], content=part).status_code == 200
    assert complete(client, upload_id, ids).json()["file"]["examples"] == 40


def test_a_bad_line_is_named_and_the_upload_stays_open_for_better_parts(client: TestClient) -> None:
    upload_id = begin(client, bytes=3 * len(EXAMPLE))
    good, bad = send(client, upload_id, EXAMPLE), send(client, upload_id, b"x" * (len(EXAMPLE) - 1) + b"\n")
    better = send(client, upload_id, EXAMPLE * 2)
    refused = complete(client, upload_id, [good, bad, send(client, upload_id, EXAMPLE)])
    assert_problem(refused, 422, "invalid_file", "line 2")
    assert client.get("/v1/files").json()["data"] == []
    assert complete(client, upload_id, [good, better]).json()["status"] == "completed"


@pytest.mark.parametrize(
    ("more", "pointer"), [({"md5": "0" * 32}, "/md5"), ({"sha256": "0" * 64}, "/sha256")], ids=["md5", "sha256"]
)
def test_a_wrong_digest_is_refused(client: TestClient, more: dict[str, str], pointer: str) -> None:
    upload_id = begin(client)
    answer = complete(client, upload_id, [send(client, upload_id, CONTENT)], **more)
    assert_problem(answer, 422, "invalid_upload", pointer)


def test_a_cancelled_upload_is_over(client: TestClient, store: S3Store) -> None:
    upload_id = begin(client)
    part = send(client, upload_id, CONTENT)
    for _ in range(2):
        assert client.post(f"/v1/uploads/{upload_id}/cancel").json()["status"] == "cancelled"
    assert left(store, upload_id) == 0
    for refused in (
        client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("part", CONTENT)}),
        client.post(f"/v1/uploads/{upload_id}/part_urls", json={"bytes": [1]}),
        complete(client, upload_id, [part]),
    ):
        assert_problem(refused, 409, "conflict")


def test_a_completed_upload_cannot_be_cancelled(client: TestClient) -> None:
    upload_id = begin(client)
    complete(client, upload_id, [send(client, upload_id, CONTENT)])
    assert_problem(client.post(f"/v1/uploads/{upload_id}/cancel"), 409, "conflict")


def test_an_hour_later_it_has_expired(platform: Platform) -> None:
    upload_id = begin(platform.client)
    part = send(platform.client, upload_id, CONTENT)
    with platform.database.transaction() as tx:
        tx.execute(text("UPDATE uploads SET expires_at = expires_at - interval '1 hour 1 second'"))
    document = assert_problem(complete(platform.client, upload_id, [part]), 409, "conflict")
    assert "expired" in document["detail"]
    assert platform.client.get(f"/v1/uploads/{upload_id}").json()["status"] == "expired"


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"bytes": 0}, "invalid_request", "/bytes"),
        ({"bytes": "12"}, "invalid_request", "/bytes"),
        ({"purpose": "assistants"}, "invalid_request", "/purpose"),
        ({"mime_type": "application/gzip"}, "invalid_request", "/mime_type"),
        ({"sha256": "abc"}, "invalid_request", "/sha256"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3600}}, "invalid_request", "/expires_after"),
        ({"filename": "../../etc/passwd"}, "invalid_file", None),
        ({"filename": "a\0b"}, "invalid_file", None),
    ],
    ids=lambda value: "" if value is None else str(value)[:40],
)
def test_what_cannot_become_a_file_is_refused_before_it_is_sent(
    client: TestClient, changes: dict[str, Any], code: str, pointer: str | None
) -> None:
    answer = client.post("/v1/uploads", json={**REQUEST, **changes})
    assert_problem(answer, 422, code, *([pointer] if pointer else []))


def test_too_large_is_said_at_once(client: TestClient) -> None:
    answer = client.post("/v1/uploads", json={**REQUEST, "bytes": 9 * 2**30})
    assert str(8 * 2**30) in assert_problem(answer, 413, "payload_too_large")["detail"]


def test_a_part_is_a_form_with_data(client: TestClient) -> None:
    path = f"/v1/uploads/{begin(client)}/parts"
    assert_problem(client.post(path, files={"data": ("part", b"")}), 422, "invalid_request", "form data")
    assert_problem(client.post(path, files={"file": ("part", b"x")}), 422, "invalid_request", "form file")
    assert_problem(client.post(path, json={}), 415, "unsupported_media_type")


def test_an_unknown_upload_answers_404(client: TestClient) -> None:
    for unknown in (new_upload_id(), "upload-nonsense", "%00"):
        assert_problem(client.get(f"/v1/uploads/{unknown}"), 404, "not_found")
        assert_problem(client.post(f"/v1/uploads/{unknown}/cancel"), 404, "not_found")
        parts = client.post(f"/v1/uploads/{unknown}/parts", files={"data": ("part", b"x")})
        assert_problem(parts, 404, "not_found")


def test_another_projects_upload_is_not_there(client: TestClient) -> None:
    upload_id = begin(client)
    other = client.post("/v1/projects", json={"name": "other"}).json()["id"]
    headers = {**AUTHORIZED, "X-Bitsmith-Project": other}
    assert_problem(client.get(f"/v1/uploads/{upload_id}", headers=headers), 404, "not_found")
    answer = client.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": ["x"]}, headers=headers)
    assert_problem(answer, 404, "not_found")


class Watching(S3Store):
    """The store, which notes how many transactions wait while bytes travel."""

    def __init__(self, settings: StorageSettings, database: Database) -> None:
        super().__init__(settings)
        self.database, self.waiting = database, list[int]()

    def put_file(self, key: str, path: Path) -> None:
        self._look()
        super().put_file(key, path)

    def put_stream(self, key: str, stream: BinaryIO, *, size_bytes: int) -> None:
        self._look()
        super().put_stream(key, stream, size_bytes=size_bytes)

    def read(self, key: str, *, offset: int, length: int) -> bytes:
        self._look()
        return super().read(key, offset=offset, length=length)

    def _look(self) -> None:
        idle = text("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
        with self.database.transaction() as tx:
            self.waiting.append(tx.scalar(idle) or 0)


def test_no_transaction_waits_for_bytes_to_travel(database: Database, storage_settings: StorageSettings) -> None:
    store = Watching(storage_settings, database)
    with TestClient(application(database, store), headers=AUTHORIZED) as client:
        upload_id = begin(client)
        part = send(client, upload_id, CONTENT)
        client.headers["Idempotency-Key"] = "one"
        assert complete(client, upload_id, [part]).json()["status"] == "completed"
        client.headers["Idempotency-Key"] = "two"
        form = {"file": ("other.jsonl", EXAMPLE + CONTENT)}
        assert client.post("/v1/files", data={"purpose": "fine-tune"}, files=form).status_code == 200
    assert store.waiting
    assert set(store.waiting) == {0}


def test_openais_client_uploads_in_chunks(served: str, tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    path.write_bytes(CONTENT)
    with openai.OpenAI(base_url=f"{served}/v1", api_key=KEY, max_retries=0) as client:
        upload = client.uploads.upload_file_chunked(
            file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=700, md5=hashlib.md5(CONTENT).hexdigest()
        )
        assert upload.status == "completed"
        assert upload.file is not None
        assert (upload.file.object, upload.file.bytes) == ("file", len(CONTENT))
        assert client.files.content(upload.file.id).content == CONTENT

        begun = client.uploads.create(bytes=3, filename="f.jsonl", mime_type="application/jsonl", purpose="fine-tune")
        part = client.uploads.parts.create(begun.id, data=b"{}\n")
        assert (part.object, part.upload_id) == ("upload.part", begun.id)
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            client.uploads.complete(begun.id, part_ids=[part.id])
        assert "line 1" in refused.value.message
        assert client.uploads.cancel(begun.id).status == "cancelled"
        with pytest.raises(openai.ConflictError):
            client.uploads.complete(begun.id, part_ids=[part.id])


def test_our_client_sends_large_files_in_parts_and_leaves_nothing_of_bad_ones(
    served: str, store: S3Store, tmp_path: Path
) -> None:
    path = tmp_path / "training.jsonl"
    path.write_bytes(CONTENT)
    before = {found.key for found in store.list("uploads/")}
    with Bitsmith(served, KEY) as bitsmith:
        file = bitsmith.uploads.send(path, part_bytes=700)
        assert (file.filename, file.examples) == ("training.jsonl", 40)
        assert file == bitsmith.files.get(file.id)
        path.write_bytes(CONTENT + b"{oops\n")
        with pytest.raises(ApiError, match="line 41: not JSON"):
            bitsmith.uploads.send(path, part_bytes=700)
        assert bitsmith.files.list() == [file]
    assert {found.key for found in store.list("uploads/")} == before
