"""The SDK against the real API."""

import json
import threading
from pathlib import Path

import pytest
from bitsmith_client.lab.stack import Stack
from bitsmith_client.sdk import ApiError, Bitsmith, Event
from bitsmith_core.spec import JobSpec


def spec_of(bitsmith: Bitsmith, training_file: Path, validation_file: Path) -> JobSpec:
    """A job that is accepted and never succeeds: there is a moment to look at it and to cancel it."""
    return JobSpec(
        model="local:unusable",
        training_file=bitsmith.files.upload(training_file).id,
        validation_file=bitsmith.files.upload(validation_file).id,
        suffix="sdk",
        metadata={"made-by": "tests"},
    )


def test_an_uploaded_file_is_listed_with_its_examples(bitsmith: Bitsmith, training_file: Path) -> None:
    uploaded = bitsmith.files.upload(training_file)
    assert (uploaded.filename, uploaded.examples) == ("training.jsonl", 16)
    assert uploaded.bytes == training_file.stat().st_size
    assert bitsmith.files.list(limit=1) == [uploaded]
    assert bitsmith.files.get(uploaded.id) == uploaded


def test_a_file_with_a_bad_line_is_refused_by_its_number(bitsmith: Bitsmith, training_file: Path) -> None:
    training_file.write_text(training_file.read_text() + '{"prompt": "and then?"}\n')
    with pytest.raises(ApiError, match="line 17") as refused:
        bitsmith.files.upload(training_file)
    assert refused.value.code == "invalid_file"


def test_a_job_is_made_once_per_key_followed_and_cancelled(
    bitsmith: Bitsmith, training_file: Path, validation_file: Path
) -> None:
    spec = spec_of(bitsmith, training_file, validation_file)
    job = bitsmith.jobs.create(spec, idempotency_key=f"sdk-{spec.training_file}")
    assert bitsmith.jobs.create(spec, idempotency_key=f"sdk-{spec.training_file}").id == job.id
    assert job.metadata == {"made-by": "tests"}
    assert job.id in [listed.id for listed in bitsmith.jobs.list()]

    followed: list[Event] = []
    follower = threading.Thread(target=lambda: followed.extend(bitsmith.jobs.stream(job.id)))
    follower.start()
    bitsmith.jobs.cancel(job.id)
    follower.join(60)
    assert not follower.is_alive()

    over = bitsmith.jobs.get(job.id)
    assert over.status in {"cancelled", "failed"}  # failed: the engine looked at the model first
    assert over.is_over
    assert [event.seq for event in followed] == list(range(1, len(followed) + 1))
    assert followed == bitsmith.jobs.events(job.id)
    assert bitsmith.jobs.events(job.id, after=1) == followed[1:]
    assert list(bitsmith.jobs.stream(job.id, after=followed[-1].seq)) == []


def test_a_dry_run_resolves_and_submits_nothing(bitsmith: Bitsmith, training_file: Path, validation_file: Path) -> None:
    spec = spec_of(bitsmith, training_file, validation_file)
    before = bitsmith.jobs.list(limit=1)
    found = bitsmith.jobs.dry_run(json.loads(spec.model_dump_json(exclude_defaults=True)))
    assert JobSpec.model_validate(found.spec) == spec
    assert found.errors == []
    assert bitsmith.jobs.list(limit=1) == before


def test_a_spec_that_makes_no_sense_is_refused_with_the_place(bitsmith: Bitsmith) -> None:
    with pytest.raises(ApiError) as refused:
        bitsmith.jobs.create({"model": "hf:a/b", "seed": -1})
    assert refused.value.status == 422
    assert {"/seed", "/training_file"} <= {problem.pointer for problem in refused.value.problems}


def test_what_is_not_there_is_said(bitsmith: Bitsmith) -> None:
    for ask in (
        lambda: bitsmith.jobs.get("ftjob-no"),
        lambda: bitsmith.models.get("no-such-model"),
        lambda: list(bitsmith.jobs.stream("ftjob-no")),
    ):
        with pytest.raises(ApiError) as refused:
            ask()
        assert refused.value.status == 404


def test_a_wrong_key_opens_nothing(lab: Stack) -> None:
    with Bitsmith(lab.config.url, "wrong") as stranger, pytest.raises(ApiError) as refused:
        stranger.files.list()
    assert refused.value.status == 401
