"""A file is stored if every line of it is an example; a refused one leaves nothing behind."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from bitsmith_client.cli import app
from bitsmith_core import files, jobs
from bitsmith_core.db import Database
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.storage import S3Store
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from tests.api.conftest import (
    AUTHORIZED,
    EXAMPLE,
    KEY,
    MAX_UPLOAD_BYTES,
    NO_STORE,
    Platform,
    application,
    assert_problem,
)

PURPOSE = {"purpose": "fine-tune"}


@pytest.fixture
def nothing_stored(database: Database, store: S3Store) -> Iterator[None]:
    """No row and no new object when the test is over."""
    before = {found.key for found in store.list("files/")}
    yield
    assert {found.key for found in store.list("files/")} == before
    with database.transaction() as tx:
        assert files.page(tx, project=DEFAULT_PROJECT, limit=1) == []


def test_an_uploaded_file_is_kept_byte_for_byte(platform: Platform, store: S3Store, tmp_path: Path) -> None:
    content = EXAMPLE * 3
    answer = platform.client.post("/v1/files", files={"file": ("my data.jsonl", content)}, data=PURPOSE)
    file = answer.json()
    digest = hashlib.sha256(content).hexdigest()
    assert file == {
        "id": file["id"],
        "created_at": file["created_at"],
        "object": "file",
        "bytes": len(content),
        "filename": "my data.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "sha256": digest,
        "examples": 3,
    }
    assert platform.client.get(f"/v1/files/{file['id']}").json() == file
    store.get_file(f"files/sha256/{digest}", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_an_eval_pack_is_objects_of_any_shape(platform: Platform) -> None:
    packs = {"purpose": "evals"}
    pack = b'{"goal": "dry a cup", "label": 0}\n{}\n'
    file = platform.client.post("/v1/files", files={"file": ("piqa.jsonl", pack)}, data=packs).json()
    assert (file["purpose"], file["examples"]) == ("evals", 2)
    refused = platform.client.post("/v1/files", files={"file": ("piqa.jsonl", pack + b"[]")}, data=packs)
    assert_problem(refused, 422, "invalid_file", "line 3")
    untrainable = platform.client.post("/v1/files", files={"file": ("piqa.jsonl", pack)}, data=PURPOSE)
    assert_problem(untrainable, 422, "invalid_file", "line 1", "line 2")


def test_a_large_file_arrives_whole(platform: Platform, store: S3Store, tmp_path: Path) -> None:
    content = b"".join(b'{"prompt": "%d + 1?", "completion": "%s"}\n' % (n, b"x" * 500) for n in range(15_000))
    file = platform.client.get(f"/v1/files/{platform.upload(content)}").json()
    assert (file["bytes"], file["examples"]) == (len(content), 15_000)
    assert file["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_same_bytes_are_stored_once(platform: Platform, store: S3Store) -> None:
    content = EXAMPLE * 7
    assert platform.upload(content) != platform.upload(content, filename="again.jsonl")
    assert len(list(store.list(f"files/sha256/{hashlib.sha256(content).hexdigest()}"))) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{broken\n", "not JSON"),
        (b'{"prompt": "\xff", "completion": "4"}\n', "not UTF-8"),
        (b'{"prompt": "2 + 2?"}\n', "completion"),
        (b'{"question": "2 + 2?"}\n', "question"),
        (b'{"prompt": "%s", "completion": "4"}\n' % (b"x" * 10_000_000), "longer than"),
    ],
    ids=["not json", "not utf-8", "half an example", "unknown keys", "10 MB line"],
)
@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.failure("malformed input")
def test_a_bad_line_is_named_by_its_number(client: TestClient, line: bytes, said: str) -> None:
    answer = client.post("/v1/files", files={"file": ("f.jsonl", EXAMPLE * 6 + line + EXAMPLE)}, data=PURPOSE)
    document = assert_problem(answer, 422, "invalid_file", "line 7")
    assert said in document["errors"][0]["detail"]
    assert document["error"]["param"] is None
    assert len(answer.content) < 5000


@pytest.mark.usefixtures("nothing_stored")
def test_a_file_without_an_example_is_refused(client: TestClient) -> None:
    for empty in (b"", b"\n\n \n"):
        assert_problem(client.post("/v1/files", files={"file": ("f.jsonl", empty)}, data=PURPOSE), 422, "invalid_file")


@pytest.mark.usefixtures("nothing_stored")
def test_a_file_over_the_limit_is_refused(client: TestClient) -> None:
    too_large = EXAMPLE * (MAX_UPLOAD_BYTES // len(EXAMPLE) + 1)
    answer = client.post("/v1/files", files={"file": ("f.jsonl", too_large)}, data=PURPOSE)
    document = assert_problem(answer, 413, "payload_too_large")
    assert str(MAX_UPLOAD_BYTES) in document["detail"]


@pytest.mark.usefixtures("nothing_stored")
def test_a_file_over_the_limit_is_refused_even_if_its_size_was_not_announced(client: TestClient) -> None:
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n'
        for _ in range(MAX_UPLOAD_BYTES // 500_000 + 3):
            read += 500_000
            yield b"x" * 500_000

    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    assert_problem(client.post("/v1/files", content=body(), headers=headers), 413, "payload_too_large")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b.jsonl", "..\\b.jsonl", " ", "x" * 300])
@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.failure("malformed input")
def test_a_file_name_must_not_be_a_path(client: TestClient, name: str) -> None:
    assert_problem(client.post("/v1/files", files={"file": (name, EXAMPLE)}, data=PURPOSE), 422, "invalid_file")


@pytest.mark.usefixtures("nothing_stored")
def test_each_part_of_the_form_is_checked(client: TestClient) -> None:
    file = {"file": ("f.jsonl", EXAMPLE)}
    cases = [
        (client.post("/v1/files", files=file), "form purpose"),
        (client.post("/v1/files", files=file, data={"purpose": "assistants"}), "form purpose"),
        (client.post("/v1/files", files=file, data={**PURPOSE, "colour": "red"}), "form colour"),
        (
            client.post("/v1/files", files=file, data={**PURPOSE, "expires_after[seconds]": "3600"}),
            "form expires_after[seconds]",
        ),
        (client.post("/v1/files", files={"data": ("f.jsonl", EXAMPLE)}, data=PURPOSE), "form data"),
        (client.post("/v1/files", files={"purpose": (None, "fine-tune")}), "form file"),
        (client.post("/v1/files", files={"file": (None, "text")}, data=PURPOSE), "form file"),
        (
            client.post("/v1/files", files=[("file", ("f", EXAMPLE))] * 2, data=PURPOSE),
            "form file",
        ),
    ]
    for answer, pointer in cases:
        document = assert_problem(answer, 422, "invalid_request", pointer)
        assert document["error"]["param"] == pointer.removeprefix("form ")


@pytest.mark.usefixtures("nothing_stored")
def test_anything_but_a_form_is_refused(client: TestClient) -> None:
    for content_type in ("application/json", "application/x-www-form-urlencoded", "", "multipart/mixed; boundary=B"):
        answer = client.post("/v1/files", content=EXAMPLE, headers={"Content-Type": content_type})
        assert_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("boundary", "body"),
    [
        ("", EXAMPLE),
        ("; boundary=B", EXAMPLE),
        ("; boundary=B", b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + EXAMPLE),
        ("; boundary=B", b'--B\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n--B--\r\n'),
        ("; boundary=" + "B" * 300, EXAMPLE),
        ("; boundary=B", b""),
    ],
    ids=["no boundary", "no form", "cut off", "name not utf-8", "long boundary", "nothing"],
)
@pytest.mark.usefixtures("nothing_stored")
def test_a_broken_form_is_refused(client: TestClient, boundary: str, body: bytes) -> None:
    headers = {"Content-Type": f"multipart/form-data{boundary}"}
    assert_problem(client.post("/v1/files", content=body, headers=headers), 400, "malformed_request")


@pytest.mark.usefixtures("nothing_stored")
def test_a_form_without_end_besides_its_file_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/files", files={"file": ("f", EXAMPLE)}, data={"purpose": "x" * 100_000})
    assert_problem(answer, 413, "payload_too_large")


def test_without_the_store_there_is_no_row(database: Database) -> None:
    with TestClient(application(database, S3Store(NO_STORE)), headers=AUTHORIZED) as client:
        answer = client.post("/v1/files", files={"file": ("f.jsonl", EXAMPLE)}, data=PURPOSE)
        assert_problem(answer, 503, "store_unavailable")
        assert "127.0.0.1" not in answer.text
        assert client.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize("unknown", ["file-0kp1p4n3vtsu5qc1q0o8g0a4lk", "file-nonsense", "x", "%00", "..%2F"])
def test_an_unknown_file_answers_404(client: TestClient, unknown: str) -> None:
    assert_problem(client.get(f"/v1/files/{unknown}"), 404, "not_found")


def test_files_are_listed_newest_first_page_by_page(platform: Platform) -> None:
    ids = [platform.upload(filename=f"{n}.jsonl") for n in range(5)]
    pages, after = [], None
    while True:
        page = platform.client.get("/v1/files", params={"limit": 2, **({"after": after} if after else {})}).json()
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        pages.append([file["id"] for file in page["data"]])
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert pages == [ids[:2:-1], ids[2:0:-1], ids[:1]]


def test_an_empty_list_has_no_ids(client: TestClient) -> None:
    page = client.get("/v1/files").json()
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("limit=0", "query limit"), ("limit=101", "query limit"), ("limit=x", "query limit"), ("after=x", "query after")],
)
def test_bounds_that_make_no_sense_are_named(client: TestClient, query: str, pointer: str) -> None:
    assert_problem(client.get(f"/v1/files?{query}"), 422, "invalid_request", pointer)


def test_files_are_listed_in_either_order_from_either_end(platform: Platform) -> None:
    a, b, c, d, e = [platform.upload(filename=f"{n}.jsonl") for n in range(5)]

    def page(**query: object) -> tuple[list[str], bool]:
        answer = platform.client.get("/v1/files", params={"limit": "2", **{k: str(v) for k, v in query.items()}}).json()
        return [file["id"] for file in answer["data"]], answer["has_more"]

    assert page(order="asc") == ([a, b], True)
    assert page(order="asc", after=c) == ([d, e], False)
    assert page(before=b) == ([d, c], True)
    assert page(before=c) == ([e, d], False)
    assert page(order="asc", before=d) == ([b, c], True)
    for query in ("before=x", "order=up"):
        pointer = f"query {query.partition('=')[0]}"
        assert_problem(platform.client.get(f"/v1/files?{query}"), 422, "invalid_request", pointer)


def test_a_list_may_hold_one_purpose_only(platform: Platform) -> None:
    platform.upload()
    form = {"files": {"file": ("p.jsonl", b"{}")}, "data": {"purpose": "evals"}}
    pack = platform.client.post("/v1/files", **form).json()["id"]  # type: ignore[arg-type]  # two kinds of argument
    listed = platform.client.get("/v1/files?purpose=evals").json()["data"]
    assert [file["id"] for file in listed] == [pack]
    assert platform.client.get("/v1/files?purpose=vision").json()["data"] == []


def test_a_deleted_file_is_gone_for_everybody(platform: Platform) -> None:
    file_id = platform.upload()
    answer = platform.client.delete(f"/v1/files/{file_id}")
    assert answer.json() == {"id": file_id, "object": "file", "deleted": True}
    for gone in (
        platform.client.get(f"/v1/files/{file_id}"),
        platform.client.get(f"/v1/files/{file_id}/content"),
        platform.client.delete(f"/v1/files/{file_id}"),
    ):
        assert_problem(gone, 404, "not_found")
    assert platform.client.get("/v1/files").json()["data"] == []


def test_a_file_that_a_job_needs_stays_until_the_job_is_over(platform: Platform) -> None:
    job_id = platform.submit()
    with platform.database.transaction() as tx:
        training = jobs.get(tx, job_id).training_file
    document = assert_problem(platform.client.delete(f"/v1/files/{training}"), 409, "conflict")
    assert job_id in document["detail"]
    lease = platform.claim(job_id)
    assert_problem(platform.client.delete(f"/v1/files/{training}"), 409, "conflict")
    platform.finish(lease)
    assert platform.client.delete(f"/v1/files/{training}").status_code == 200
    assert platform.client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["training_file"] == training


def test_the_content_is_a_link_into_the_store(platform: Platform) -> None:
    file_id = platform.upload(EXAMPLE * 2, filename="my data.jsonl")
    answer = platform.client.get(f"/v1/files/{file_id}/content", follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["cache-control"] == "no-store"
    found = httpx.get(answer.headers["location"])
    assert found.content == EXAMPLE * 2
    assert "my%20data.jsonl" in found.headers["content-disposition"]


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.failure("malformed input")
def test_an_archive_is_called_by_its_name_and_never_unpacked(client: TestClient) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    answer = client.post("/v1/files", files={"file": ("f.jsonl", bomb)}, data=PURPOSE)
    document = assert_problem(answer, 422, "invalid_file", "line 1")
    assert "this is a gzip archive" in document["detail"]


@pytest.mark.usefixtures("nothing_stored")
def test_a_compressed_request_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=B", "Content-Encoding": "gzip"}
    answer = client.post("/v1/files", content=gzip.compress(b"--B--"), headers=headers)
    assert_problem(answer, 415, "unsupported_media_type")


def test_a_repeated_upload_under_a_key_is_one_file(platform: Platform) -> None:
    """The boundary of the form is another one each time; what it says decides."""
    form = {"files": {"file": ("f.jsonl", EXAMPLE)}, "data": PURPOSE, "headers": {"Idempotency-Key": "once"}}
    first, again = (platform.client.post("/v1/files", **form) for _ in range(2))  # type: ignore[arg-type]
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert len(platform.client.get("/v1/files").json()["data"]) == 1
    form["files"] = {"file": ("other.jsonl", EXAMPLE)}
    assert_problem(platform.client.post("/v1/files", **form), 422, "idempotency_mismatch")  # type: ignore[arg-type]


def test_openais_client_works_with_files(served: str, tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    path.write_bytes(EXAMPLE * 3)
    with openai.OpenAI(base_url=f"{served}/v1", api_key=KEY, max_retries=0) as client:
        sent = [client.files.create(file=path, purpose="fine-tune") for _ in range(3)]
        [packed] = [client.files.create(file=("p.jsonl", b"{}"), purpose="evals")]
        file = sent[0]
        assert (file.object, file.bytes, file.filename, file.status) == (
            "file",
            3 * len(EXAMPLE),
            path.name,
            "processed",
        )
        assert client.files.retrieve(file.id) == file
        assert client.files.wait_for_processing(file.id) == file
        assert [f.id for f in client.files.list(limit=2, purpose="fine-tune")] == [f.id for f in sent[::-1]]
        assert [f.id for f in client.files.list(limit=1, order="asc")] == [*(f.id for f in sent), packed.id]
        # Its client follows to the store by itself, and leaves the key behind, which the store would not understand.
        assert client.files.content(file.id).content == path.read_bytes()
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            client.files.create(file=b"{oops", purpose="fine-tune")
        assert "line 1: not JSON" in refused.value.message
        with pytest.raises(openai.UnprocessableEntityError) as unsupported:
            client.files.create(file=path, purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600})
        assert unsupported.value.param == "expires_after[anchor]"


def test_the_command_line_uploads_lists_downloads_and_deletes(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pack = tmp_path / "pack.jsonl"
    pack.write_bytes(b"{}\n")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["files", *arguments, "--url", served, "--key", KEY])

    [sent] = json.loads(run(str(pack), "--purpose", "evals", "--json").stdout)
    assert (sent["filename"], sent["purpose"]) == ("pack.jsonl", "evals")
    assert sent["id"] in run().stdout
    assert "no files yet" in run("--purpose", "fine-tune").stdout
    assert run("content", sent["id"]).exit_code == 2  # it would write over the file that is there
    copied = run("content", sent["id"], "--output", "copy.jsonl")
    assert copied.stdout == "copy.jsonl\n", copied.output
    assert (tmp_path / "copy.jsonl").read_bytes() == b"{}\n"
    assert run("rm", sent["id"]).stdout == f"{sent['id']} is deleted\n"
    assert f"there is no file {sent['id']}" in run("rm", sent["id"]).stderr
    assert "no files yet" in run().stdout
