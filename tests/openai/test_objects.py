"""What OpenAI's client asks for and gets: files, uploads, jobs and lists, each as its own objects."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import openai
import pytest
from live_api import KEY
from openai import AsyncOpenAI, OpenAI
from openai.types import FileObject, Upload
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.uploads import UploadPart

from tests.openai.conftest import EXAMPLE, checked, submit, upload

CONTENT = b"".join(b'{"prompt": "%d + 1?", "completion": "%d"}\n' % (n, n + 1) for n in range(40))
NOT_THEIRS = frozenset({"method"})  # one of ours where OpenAI knows three of its own


def test_a_file_comes_back_as_it_went_up(sdk: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    path.write_bytes(CONTENT)
    file = sdk.files.create(file=path, purpose="fine-tune")
    checked(file, FileObject)
    assert (file.filename, file.bytes, file.purpose) == ("training.jsonl", len(CONTENT), "fine-tune")
    assert sdk.files.wait_for_processing(file.id) == sdk.files.retrieve(file.id) == file
    assert sdk.files.content(file.id).read() == CONTENT
    assert sdk.files.delete(file.id).deleted
    assert list(sdk.files.list()) == []


def test_an_upload_in_parts_becomes_a_file(sdk: OpenAI) -> None:
    begun = sdk.uploads.create(
        bytes=len(CONTENT), filename="parts.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )  # fmt: skip
    checked(begun, Upload)
    half = len(CONTENT) // 2
    parts = [sdk.uploads.parts.create(begun.id, data=data) for data in (CONTENT[half:], CONTENT[:half])]
    for part in parts:
        checked(part, UploadPart)
    done = sdk.uploads.complete(
        begun.id, part_ids=[parts[1].id, parts[0].id], md5=hashlib.md5(CONTENT).hexdigest()
    )  # fmt: skip
    checked(done, Upload)
    assert done.status == "completed"
    assert done.file is not None
    assert sdk.files.content(done.file.id).read() == CONTENT


def test_a_large_file_is_cut_into_parts_by_the_client_itself(sdk: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(CONTENT)
    done = sdk.uploads.upload_file_chunked(file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=300)
    assert done.file is not None
    assert (done.status, done.file.bytes, done.file.filename) == ("completed", len(CONTENT), "large.jsonl")


def test_a_cancelled_upload_takes_no_part(sdk: OpenAI) -> None:
    begun = sdk.uploads.create(bytes=10, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    assert sdk.uploads.cancel(begun.id).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        sdk.uploads.parts.create(begun.id, data=EXAMPLE)


def test_a_supervised_job_is_answered_with_every_auto_decided(sdk: OpenAI) -> None:
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    job = submit(sdk, method={"type": "supervised", "supervised": {"hyperparameters": auto}}, suffix="demo", seed=7)
    checked(job, FineTuningJob, leave_out=NOT_THEIRS)
    assert (job.object, job.status, job.seed) == ("fine_tuning.job", "queued", 7)
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (25, 1)  # one example: read 25 times
    assert job.hyperparameters.learning_rate_multiplier == 1.0
    assert sdk.fine_tuning.jobs.retrieve(job.id).method == job.method


def test_openai_s_own_example_needs_no_validation_file(sdk: OpenAI) -> None:
    content = b"".join(b'{"prompt": "%d + 1?", "completion": "%d"}\n' % (n, n + 1) for n in range(100))
    job = sdk.fine_tuning.jobs.create(model="hf:org/tiny", training_file=upload(sdk, content=content))
    checked(job, FineTuningJob, leave_out=NOT_THEIRS)
    assert (job.status, job.validation_file) == ("queued", None)


def test_a_request_that_its_client_repeats_makes_one_job(sdk: OpenAI) -> None:
    files: dict[str, Any] = {"training_file": upload(sdk), "validation_file": upload(sdk, "validation.jsonl")}
    once = {"Idempotency-Key": "nightly-2031-05-01"}
    answers = [
        sdk.fine_tuning.jobs.with_raw_response.create(model="hf:org/tiny", extra_headers=once, **files)
        for _ in range(3)
    ]  # fmt: skip
    assert len({answer.parse().id for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true"]
    assert len(list(sdk.fine_tuning.jobs.list())) == 1


def test_lists_are_walked_to_the_end_page_by_page(sdk: OpenAI) -> None:
    ids = [submit(sdk, metadata={"n": str(number % 2)}).id for number in range(5)]
    page = sdk.fine_tuning.jobs.list(limit=2)
    assert (len(page.data), page.has_more, page.has_next_page()) == (2, True, True)
    assert [job.id for job in page] == ids[::-1]
    assert [job.id for job in sdk.fine_tuning.jobs.list(limit=1, metadata={"n": "1"})] == [ids[3], ids[1]]
    assert [file.filename for file in sdk.files.list(limit=3, order="asc")] == [
        "training.jsonl", "validation.jsonl",
    ] * 5  # fmt: skip


def test_a_waiting_job_is_paused_resumed_and_cancelled_and_its_events_say_so(sdk: OpenAI) -> None:
    job = submit(sdk)
    assert sdk.fine_tuning.jobs.pause(job.id).status == "paused"  # type: ignore[comparison-overlap]
    assert sdk.fine_tuning.jobs.resume(job.id).status == "queued"
    over = sdk.fine_tuning.jobs.cancel(job.id)
    checked(over, FineTuningJob, leave_out=NOT_THEIRS)
    assert over.status == "cancelled"
    assert over.finished_at is not None
    events = list(sdk.fine_tuning.jobs.list_events(job.id, limit=2))
    for event in events:
        checked(event, FineTuningJobEvent)
    happened = [event.data["event"] for event in events]  # type: ignore[index]
    assert [name for name in happened if not name.endswith("_requested")] == [
        "job.cancelled", "job.resumed", "job.paused", "job.queued",
    ]  # fmt: skip


def test_the_asynchronous_client_works_as_well(sdk: OpenAI, address: str) -> None:
    job = submit(sdk)

    async def look() -> tuple[list[str], list[str]]:
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
            listed = [found.id async for found in client.fine_tuning.jobs.list(limit=1)]
            events = [event.message async for event in client.fine_tuning.jobs.list_events(job.id)]
            return listed, events

    listed, events = asyncio.run(look())
    assert listed == [job.id]
    assert events
