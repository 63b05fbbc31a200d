"""OpenAI's own client, unmodified, asks for jobs, follows them, and meets its own types and exceptions."""

from typing import Any

import openai
import pytest
from bitsmith_core import jobs
from bitsmith_core.ids import JobId
from bitsmith_core.wire import Failed, FailureClass, Progress, Stage
from fastapi.testclient import TestClient
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from tests.api.conftest import KEY, Platform


@pytest.fixture
def sdk(client: TestClient) -> OpenAI:
    # Retries would only make the refusals slow; strict: an answer that lacks a field is an error.
    return OpenAI(
        base_url="http://testserver/v1", api_key=KEY, http_client=client, max_retries=0,
    )  # fmt: skip


def create(sdk: OpenAI, platform: Platform, **arguments: Any) -> FineTuningJob:
    return sdk.fine_tuning.jobs.create(
        model="hf:org/tiny",
        training_file=platform.upload(),
        validation_file=platform.upload(filename="validation.jsonl"),
        **arguments,
    )


def checked(found: Any, kind: Any, *, leave_out: frozenset[str] = frozenset()) -> None:
    """The client builds its objects without looking; its own model says whether every field is there and right."""
    kind.model_validate(found.model_dump(exclude=set(leave_out), warnings=False))


def test_a_supervised_job_is_answered_with_every_auto_decided(sdk: OpenAI, platform: Platform) -> None:
    job = create(
        sdk, platform,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto", "batch_size": 4}}},
        metadata={"team": "blue"}, suffix="demo", seed=7,
    )  # fmt: skip
    checked(job, FineTuningJob, leave_out=frozenset({"method"}))  # its method may be only one of OpenAI's three
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (25, 4)
    assert job.hyperparameters.learning_rate_multiplier == 1.0
    assert (job.status, job.seed, job.metadata, job.result_files) == ("queued", 7, {"team": "blue"}, [])
    assert job.method is not None
    assert (str(job.method.type), job.method.qsft["training"]["epochs"]) == ("qsft", 25)  # type: ignore[attr-defined]


def test_the_older_place_of_hyperparameters_works_too(sdk: OpenAI, platform: Platform) -> None:
    job = create(sdk, platform, hyperparameters={"n_epochs": 2, "learning_rate_multiplier": 0.5})
    assert (job.hyperparameters.n_epochs, job.hyperparameters.learning_rate_multiplier) == (2, 0.5)


def test_what_openai_does_not_have_goes_through_extra_fields(sdk: OpenAI, platform: Platform) -> None:
    job = create(sdk, platform, extra_body={"method": {"type": "lora"}, "priority": 5})
    assert job.priority == 5  # type: ignore[attr-defined]
    assert job.method is not None
    assert str(job.method.type) == "lora"


def test_jobs_are_listed_to_the_end_and_by_metadata(sdk: OpenAI, platform: Platform) -> None:
    ids = [create(sdk, platform, metadata={"n": str(number)}).id for number in range(3)]
    assert [job.id for job in sdk.fine_tuning.jobs.list(limit=2)] == ids[::-1]
    assert [job.id for job in sdk.fine_tuning.jobs.list(metadata={"n": "1"})] == [ids[1]]


def test_a_job_is_paused_resumed_and_cancelled(sdk: OpenAI, platform: Platform) -> None:
    job = create(sdk, platform)
    assert sdk.fine_tuning.jobs.pause(job.id).status == "paused"  # type: ignore[comparison-overlap]
    assert sdk.fine_tuning.jobs.resume(job.id).status == "queued"
    assert sdk.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.ConflictError) as caught:
        sdk.fine_tuning.jobs.resume(job.id)
    assert caught.value.code == "illegal_transition"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_events_and_checkpoints_are_those_of_the_client(sdk: OpenAI, platform: Platform) -> None:
    job = create(sdk, platform)
    lease = platform.claim(JobId(job.id))
    with platform.database.transaction() as tx:
        jobs.keep_checkpoint(tx, lease, stage="training", step=5, prefix="p", files=["a"], metrics={"loss": 2.5})
    events = list(sdk.fine_tuning.jobs.list_events(job.id, limit=2))
    assert len(events) == 3
    for event in events:
        checked(event, FineTuningJobEvent)
    (checkpoint,) = sdk.fine_tuning.jobs.checkpoints.list(job.id)
    checked(checkpoint, FineTuningJobCheckpoint)
    assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (5, 2.5)


def test_a_training_steps_numbers_have_the_clients_names_too(sdk: OpenAI, platform: Platform) -> None:
    job = create(sdk, platform)
    lease = platform.claim(JobId(job.id))
    measured = {"loss": 2.5, "held_out_loss": 2.75, "flips": 3.0}
    with platform.database.transaction() as tx:
        jobs.record(tx, lease, Progress(stage=Stage.QUANTIZING, done=1, total=4, metrics={"loss": 9.0}))
        jobs.record(tx, lease, Progress(stage=Stage.TRAINING, done=5, total=20, metrics=measured))
        jobs.record(tx, lease, Progress(stage=Stage.TRAINING, done=10, total=20))
    events = sdk.fine_tuning.jobs.list_events(job.id)
    bare, trained, quantized = (event.data for event in events if event.type == "metrics")
    assert trained == {
        "event": "progress", "stage": "training", "done": 5, "total": 20, "eta_s": None, "metrics": measured,
        "step": 5, "total_steps": 20, "train_loss": 2.5, "valid_loss": 2.75,
    }  # fmt: skip
    assert isinstance(bare, dict)
    assert {name: bare.get(name) for name in ("step", "total_steps", "train_loss")} == {
        "step": 10, "total_steps": 20, "train_loss": None,
    }  # fmt: skip
    assert isinstance(quantized, dict)
    assert not quantized.keys() & {"step", "train_loss"}


def test_a_failed_job_tells_the_client_why(sdk: OpenAI, platform: Platform) -> None:
    job = create(sdk, platform)
    lease = platform.claim(JobId(job.id))
    with platform.database.transaction() as tx:
        jobs.fail(tx, lease, Failed(failure=FailureClass.DATA, code="bad_data", message="Line 3 is empty."))
    failed = sdk.fine_tuning.jobs.retrieve(job.id)
    checked(failed, FineTuningJob, leave_out=frozenset({"method"}))
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("bad_data", "Line 3 is empty.")


def test_models_are_listed_found_and_deleted(sdk: OpenAI, platform: Platform) -> None:
    for _ in range(2):
        platform.publish("tiny-demo")
    (listed,) = sdk.models.list()
    checked(listed, openai.types.Model)
    version = sdk.models.retrieve("tiny-demo@1")
    checked(version, openai.types.Model)
    assert (listed.id, version.id, version.object) == ("tiny-demo", "tiny-demo@1", "model")
    assert sdk.models.delete("tiny-demo@1").deleted
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("tiny-demo@1")
    assert sdk.models.delete("tiny-demo").id == "tiny-demo"
    assert list(sdk.models.list()) == []


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"method": {"type": "dpo", "dpo": {}}}, "method.type"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}},
         "method.supervised.hyperparameters.n_epochs"),
        ({"suffix": "No Suffix!"}, "suffix"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_the_clients_own_error(
    sdk: OpenAI, platform: Platform, arguments: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        create(sdk, platform, **arguments)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert caught.value.request_id


def test_every_refusal_is_the_exception_its_users_catch(sdk: OpenAI, client: TestClient) -> None:
    with pytest.raises(openai.NotFoundError):
        sdk.fine_tuning.jobs.retrieve("ftjob-none")
    stranger = OpenAI(base_url="http://testserver/v1", api_key="wrong", http_client=client, max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.with_options(default_headers={"Authorization": "Bearer wrong"}).fine_tuning.jobs.list()
