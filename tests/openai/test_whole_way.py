"""From a file to a chat with the model, with nothing but OpenAI's client: every part of the platform is real.

Only the model and the data are small.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from bitsmith_client.lab.stack import Stack
from bitsmith_client.lab.state import LabState
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from toy_model import save_toy_model, write_examples

from tests.openai.conftest import checked

OVER = {"succeeded", "failed", "cancelled"}
QUESTION: list[Any] = [{"role": "user", "content": "7?"}]
QUICK_EVALUATION = {"perplexity_examples": 8, "multiple_choice": {"questions": 4, "choices": 2}}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="bitsmith-openai-"))
    folder.chmod(0o711)
    state = LabState(folder)
    state.prepare()
    save_toy_model(state.models / "toy")
    with Stack(state) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def lab(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stack.config.url}/v1", api_key=stack.config.api_key) as client:
        yield client


@pytest.fixture(scope="module")
def data(lab: OpenAI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    write_examples(folder / "training.jsonl", 64)
    write_examples(folder / "validation.jsonl", 16, offset=100)
    return {
        name: lab.files.create(file=folder / f"{name.removesuffix('_file')}.jsonl", purpose="fine-tune").id
        for name in ("training_file", "validation_file")
    }


@pytest.fixture(scope="module")
def trained(lab: OpenAI, data: dict[str, Any]) -> FineTuningJob:
    """A supervised job as any user of OpenAI writes it, when it is over."""
    wanted = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": wanted}}
    job = lab.fine_tuning.jobs.create(
        model="local:toy", **data, suffix="answers", seed=1, metadata={"team": "blue"}, method=method
    )  # fmt: skip
    over: FineTuningJob = wait(lab, job.id, lambda job: job.status in OVER)
    return over


def wait(lab: OpenAI, job_id: str, until: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 150
    while True:
        job = lab.fine_tuning.jobs.retrieve(job_id)
        if until(job):
            return job
        assert job.status not in OVER, f"{job.status}: {job.error}"
        assert time.monotonic() < deadline, f"still {job.status}, {job.stage}"  # type: ignore[attr-defined]
        time.sleep(0.2)


def long_job(lab: OpenAI, data: dict[str, Any], suffix: str, **training: Any) -> str:
    """What only our method can say: a checkpoint at every step."""
    method = {
        "type": "qsft",
        "qsft": {
            "quantization": {"scheme": "layer-mix", "calibration_samples": 4},
            "training": {"epochs": 20, "batch_size": 8, "max_length": 64, "checkpoint_steps": 1, **training},
            "evaluation": QUICK_EVALUATION,
        },
    }
    job = lab.fine_tuning.jobs.create(model="local:toy", **data, suffix=suffix, extra_body={"method": method})
    return job.id


def is_training(job: Any) -> bool:
    return bool(job.stage == "training" and job.progress.get("done", 0) >= 2)


def test_a_supervised_job_succeeds_and_says_what_it_made(trained: FineTuningJob) -> None:
    checked(trained, FineTuningJob, leave_out=frozenset({"method"}))
    assert (trained.status, trained.error) == ("succeeded", None)
    assert trained.fine_tuned_model == "toy-answers@1"
    assert (trained.hyperparameters.n_epochs, trained.hyperparameters.batch_size) == (2, 2)
    assert trained.trained_tokens is not None
    assert trained.trained_tokens > 0
    assert trained.finished_at is not None
    assert trained.finished_at >= trained.created_at


def test_its_events_tell_the_whole_story_newest_first(lab: OpenAI, trained: FineTuningJob) -> None:
    events = list(lab.fine_tuning.jobs.list_events(trained.id, limit=3))
    for event in events:
        checked(event, FineTuningJobEvent)
    assert len({event.id for event in events}) == len(events)
    names = [event.data["event"] for event in events]  # type: ignore[index]
    assert (names[0], names[-1]) == ("job.succeeded", "job.queued")
    data = [event.data for event in events if event.type == "metrics"]
    losses = [facts["metrics"]["loss"] for facts in data if facts["stage"] == "training"]  # type: ignore[index]
    assert losses, "its users plot these"
    assert all(0 < loss < 20 for loss in losses)


def test_its_checkpoints_are_the_clients(lab: OpenAI, trained: FineTuningJob) -> None:
    checkpoints = list(lab.fine_tuning.jobs.checkpoints.list(trained.id, limit=2))
    assert checkpoints
    for checkpoint in checkpoints:
        checked(checkpoint, FineTuningJobCheckpoint)
        assert checkpoint.fine_tuning_job_id == trained.id


def test_its_model_is_listed_and_retrieved(lab: OpenAI, trained: FineTuningJob) -> None:
    assert "toy-answers" in [model.id for model in lab.models.list()]
    for name in ("toy-answers", "toy-answers@1"):
        model = lab.models.retrieve(name)
        checked(model, openai.types.Model)
        assert model.id == name


def test_its_model_answers_and_the_pieces_of_a_stream_are_the_same_answer(lab: OpenAI, trained: FineTuningJob) -> None:
    asked: dict[str, Any] = {
        "model": trained.fine_tuned_model, "messages": QUESTION, "seed": 5, "max_completion_tokens": 12,
    }  # fmt: skip
    whole = lab.chat.completions.create(**asked)
    checked(whole, ChatCompletion)
    assert whole.model == "toy-answers@1"
    assert whole.choices[0].finish_reason in {"stop", "length"}
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    with lab.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    for chunk in chunks:
        checked(chunk, ChatCompletionChunk)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_its_model_answers_the_asynchronous_client(stack: Stack, trained: FineTuningJob) -> None:
    async def ask() -> str:
        async with AsyncOpenAI(base_url=f"{stack.config.url}/v1", api_key=stack.config.api_key) as client:
            stream = await client.chat.completions.create(
                model="toy-answers", messages=QUESTION, max_completion_tokens=4, temperature=0, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert asyncio.run(ask())


def test_what_chat_cannot_do_is_refused_by_name(lab: OpenAI, trained: FineTuningJob) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        lab.chat.completions.create(model="toy-answers", messages=QUESTION, n=2)
    assert caught.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        lab.chat.completions.create(model="toy-answers@9", messages=QUESTION)


@pytest.mark.slow
def test_a_job_paused_in_training_goes_on_from_its_checkpoint(lab: OpenAI, data: dict[str, Any]) -> None:
    job_id = long_job(lab, data, "paused")
    wait(lab, job_id, is_training)
    asked = lab.fine_tuning.jobs.pause(job_id)
    assert asked.status in {"running", "paused"}
    wait(lab, job_id, lambda job: job.status == "paused")
    saved = [checkpoint.step_number for checkpoint in lab.fine_tuning.jobs.checkpoints.list(job_id)]
    assert max(saved) >= 2

    assert lab.fine_tuning.jobs.resume(job_id).status == "queued"
    wait(lab, job_id, lambda job: job.status == "succeeded")
    attempts = lab.get(f"/fine_tuning/jobs/{job_id}/attempts", cast_to=object)
    second, first = attempts["data"]  # type: ignore[index]
    assert (first["outcome"], second["outcome"]) == ("paused", "succeeded")
    assert second["start_step"] == first["end_step"] >= max(saved)


@pytest.mark.slow
def test_a_job_cancelled_in_training_publishes_nothing(lab: OpenAI, data: dict[str, Any]) -> None:
    job_id = long_job(lab, data, "cancelled", epochs=100)
    wait(lab, job_id, is_training)
    lab.fine_tuning.jobs.cancel(job_id)
    over = wait(lab, job_id, lambda job: job.status == "cancelled")
    assert over.fine_tuned_model is None
    with pytest.raises(openai.NotFoundError):
        lab.models.retrieve("toy-cancelled")


def test_a_deleted_model_is_gone_and_its_job_stays(lab: OpenAI, data: dict[str, Any]) -> None:
    quantize = {
        "type": "quantize",
        "quantize": {"quantization": {"scheme": "layer-mix", "calibration_samples": 4}, "evaluation": QUICK_EVALUATION},
    }
    job = lab.fine_tuning.jobs.create(model="local:toy", **data, suffix="gone", extra_body={"method": quantize})
    wait(lab, job.id, lambda job: job.status == "succeeded")
    assert lab.chat.completions.create(model="toy-gone", messages=QUESTION, max_completion_tokens=1).choices
    assert lab.models.delete("toy-gone").deleted
    with pytest.raises(openai.NotFoundError):
        lab.models.retrieve("toy-gone@1")
    with pytest.raises(openai.NotFoundError):
        lab.chat.completions.create(model="toy-gone", messages=QUESTION)
    assert lab.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
