"""Every refusal reaches its users as the exception class they catch, with code, param and request id."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import openai
import pytest
from bitsmith_core import jobs, registry
from bitsmith_core.db import Database
from bitsmith_core.ids import JobId
from live_api import KEY
from openai import OpenAI

from tests.api.conftest import MANIFEST
from tests.openai.conftest import EXAMPLE, MAX_UPLOAD_BYTES, post, submit, upload

As = Callable[..., OpenAI]


@pytest.fixture
def with_key(sdk: OpenAI) -> Iterator[As]:
    """with_key(role="viewer") is a client with a new key; `limits` put it into a project of its own with those."""
    with ExitStack() as clients:

        def make(*, role: str = "member", limits: dict[str, Any] | None = None) -> OpenAI:
            admin = sdk
            if limits is not None:
                project = post(sdk, "/projects", name=f"with {limits}", limits=limits)
                admin = sdk.with_options(default_headers={"X-Bitsmith-Project": project["id"]})
            key = post(admin, "/api_keys", name="a key", role=role)
            return clients.enter_context(OpenAI(base_url=sdk.base_url, api_key=key["key"]))

        yield make


def told(error: openai.APIStatusError) -> tuple[int, str | None, str | None]:
    assert error.request_id, "what a person names when asking for help"
    assert error.message.startswith("Error code") or error.body
    return error.status_code, error.code, error.type


def test_a_key_that_nobody_has_is_an_authentication_error(address: str) -> None:
    with OpenAI(base_url=f"{address}/v1", api_key="sk-wrong") as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        assert told(caught.value) == (401, "unauthorized", "authentication_error")
        assert "sk-wrong" not in str(caught.value)


def test_a_revoked_key_is_an_authentication_error(sdk: OpenAI) -> None:
    key = post(sdk, "/api_keys", name="soon gone", role="member")
    with OpenAI(base_url=sdk.base_url, api_key=key["key"]) as holder:
        assert list(holder.files.list()) == []
        sdk.delete(f"/api_keys/{key['id']}", cast_to=object)
        with pytest.raises(openai.AuthenticationError, match="revoked"):
            holder.files.list()


def test_what_a_role_may_not_do_is_a_permission_error(sdk: OpenAI, with_key: As) -> None:
    file_id = upload(sdk)
    viewer = with_key(role="viewer")
    assert viewer.files.retrieve(file_id).id == file_id
    refused: list[Callable[[], object]] = [
        lambda: upload(viewer),
        lambda: viewer.files.delete(file_id),
        lambda: viewer.fine_tuning.jobs.create(model="hf:org/tiny", training_file=file_id),
        lambda: viewer.models.delete("any"),
        lambda: viewer.uploads.create(bytes=1, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune"),
    ]
    for call in refused:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            call()
        assert told(caught.value) == (403, "forbidden", "permission_error")
    assert sdk.files.retrieve(file_id).id == file_id


def test_what_is_not_there_and_what_is_anothers_are_the_same_not_found(sdk: OpenAI, with_key: As) -> None:
    job, file_id = submit(sdk), upload(sdk)
    other = with_key(limits={})
    mine: list[Callable[[OpenAI], object]] = [
        lambda client: client.fine_tuning.jobs.retrieve(job.id),
        lambda client: client.fine_tuning.jobs.cancel(job.id),
        lambda client: list(client.fine_tuning.jobs.list_events(job.id)),
        lambda client: list(client.fine_tuning.jobs.checkpoints.list(job.id)),
        lambda client: client.files.retrieve(file_id),
    ]
    for call in mine:
        call(sdk)
        with pytest.raises(openai.NotFoundError) as caught:
            call(other)
        assert told(caught.value)[:2] == (404, "not_found")
    for missing in (lambda: sdk.models.retrieve("none"), lambda: sdk.files.content("file-none")):
        with pytest.raises(openai.NotFoundError):
            missing()


def test_what_the_present_state_forbids_is_a_conflict_and_not_tried_again(sdk: OpenAI) -> None:
    job = submit(sdk)
    with pytest.raises(openai.ConflictError, match=job.id) as needed:
        sdk.files.delete(job.training_file)
    assert told(needed.value)[0] == 409
    sdk.fine_tuning.jobs.cancel(job.id)
    began = time.monotonic()
    with pytest.raises(openai.ConflictError) as caught:
        sdk.fine_tuning.jobs.pause(job.id)
    assert told(caught.value)[:2] == (409, "illegal_transition")
    assert time.monotonic() - began < 0.5 + 0.5, "its client backs off half a second before it tries again"
    assert sdk.files.delete(job.training_file).deleted


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}},
         "method.supervised.hyperparameters.n_epochs"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"extra_body": {"unheard_of": 1}}, "unheard_of"),
        ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_what_is_understood_but_impossible_is_unprocessable_and_named(
    sdk: OpenAI, arguments: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        submit(sdk, **arguments)
    assert told(caught.value) == (422, "invalid_spec", "invalid_request_error")
    assert caught.value.param == param


def test_a_bad_line_of_a_file_is_unprocessable_and_named(sdk: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="line 2"):
        upload(sdk, content=EXAMPLE + b'{"prompt": 1}\n')
    assert list(sdk.files.list()) == []


def test_bytes_that_are_no_json_are_a_bad_request(sdk: OpenAI) -> None:
    headers = {"Content-Type": "application/json"}
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.post("/fine_tuning/jobs", cast_to=object, content=b'{"model": ', options={"headers": headers})
    assert told(caught.value) == (400, "malformed_request", "invalid_request_error")


def test_a_file_that_is_too_large_is_its_status_error(sdk: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        upload(sdk, content=EXAMPLE * (MAX_UPLOAD_BYTES // len(EXAMPLE) + 2))
    assert told(caught.value)[:2] == (413, "payload_too_large")


def test_asking_too_often_is_a_rate_limit_error_that_says_when_to_come_back(sdk: OpenAI, with_key: As) -> None:
    hasty = with_key(limits={"requests_per_minute": 3}).with_options(max_retries=0)
    for _ in range(3):
        hasty.models.list()
    with pytest.raises(openai.RateLimitError) as caught:
        hasty.models.list()
    assert told(caught.value) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    list(sdk.models.list())  # nobody else pays for it


def test_more_jobs_than_a_project_may_have_is_a_rate_limit_error_that_is_not_tried_again(
    sdk: OpenAI, with_key: As
) -> None:
    small = with_key(limits={"open_jobs": 1})
    first = submit(small)
    with pytest.raises(openai.RateLimitError) as caught:
        submit(small)
    assert told(caught.value)[0] == 429
    assert caught.value.response.headers["x-should-retry"] == "false"
    small.fine_tuning.jobs.cancel(first.id)
    assert submit(small).status == "queued"


def test_chat_without_a_serving_service_is_a_server_error_that_says_what_to_do(sdk: OpenAI, database: Database) -> None:
    job_id = JobId(submit(sdk).id)
    with database.transaction() as tx:
        lease = jobs.claim(tx, job_id, worker="gpu-0", ttl=timedelta(minutes=1))
        assert lease is not None
        registry.blobs.hold(tx, MANIFEST.files)
        registry.publish(tx, project=lease.project, name="tiny", job_id=job_id, manifest=MANIFEST)
        jobs.finish(tx, lease, result="tiny@1")
    with pytest.raises(openai.InternalServerError, match="BITSMITH_SERVING_URL") as caught:
        sdk.with_options(max_retries=0).chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello?"}]
        )
    assert told(caught.value) == (503, "chat_unavailable", "server_error")
    assert int(caught.value.response.headers["retry-after"]) > 0


def test_a_server_that_is_away_is_a_connection_error() -> None:
    with (
        OpenAI(base_url="http://127.0.0.1:1/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()
