"""OpenAI's request becomes a job of ours, every "auto" decided from the number of examples."""

from typing import Any

import pytest
from bitsmith_core.ids import new_file_id
from bitsmith_core.spec import DiodeMix, JobRequest, JobSpec, Training
from bitsmith_core.spec.openai import auto_batch_size, auto_epochs
from pydantic import ValidationError

BASICS = {"model": "hf:org/tiny", "training_file": new_file_id(), "validation_file": new_file_id()}


def training(request: dict[str, Any], *, examples: int = 1000) -> Training:
    found = JobRequest.model_validate({**BASICS, **request}).spec(examples=examples).training
    assert found is not None
    return found


def supervised(**hyperparameters: Any) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}


@pytest.mark.parametrize(
    ("examples", "epochs"),
    [(1, 25), (3, 25), (10, 10), (33, 3), (34, 3), (8333, 3), (8334, 2), (12_500, 2), (12_501, 1), (10**7, 1)],
)
def test_epochs_read_a_hundred_examples_at_least_and_not_too_many(examples: int, epochs: int) -> None:
    assert auto_epochs(examples) == epochs


@pytest.mark.parametrize(
    ("examples", "size"), [(0, 1), (1, 1), (49, 1), (50, 2), (99, 2), (100, 4), (200, 8), (9999, 8)]
)
def test_batches_leave_some_25_steps_an_epoch(examples: int, size: int) -> None:
    assert auto_batch_size(examples) == size


@pytest.mark.parametrize(
    "request_", [{"method": {"type": "supervised"}}, supervised(), supervised(n_epochs="auto", batch_size="auto")]
)
def test_all_ways_to_say_auto_mean_the_same(request_: dict[str, Any]) -> None:
    assert training(request_, examples=60) == Training(epochs=3, batch_size=2)


def test_what_is_given_is_taken() -> None:
    found = training(supervised(n_epochs=7, batch_size=16, learning_rate_multiplier=2))
    assert (found.epochs, found.batch_size) == (7, 16)
    rates = found.optimizer
    default = DiodeMix()
    for name in ("scale_learning_rate", "code_learning_rate", "float_learning_rate"):
        assert getattr(rates, name) == 2 * getattr(default, name)


def test_the_older_place_says_the_same() -> None:
    assert training({"hyperparameters": {"n_epochs": 2}}) == training(supervised(n_epochs=2))


def test_our_own_method_is_taken_as_it_is() -> None:
    body = {**BASICS, "method": {"type": "qsft", "qsft": {"training": {"epochs": 4}}}}
    assert JobRequest.model_validate(body).spec(examples=0) == JobSpec.model_validate(body)
    assert JobRequest.model_validate(BASICS).spec(examples=0) == JobSpec.model_validate(BASICS)


def test_a_null_is_the_same_as_nothing() -> None:
    nulls = {"seed": None, "suffix": None, "metadata": None, "integrations": None, "hyperparameters": None}
    assert JobRequest.model_validate({**BASICS, **nulls}) == JobRequest.model_validate(BASICS)


def test_auto_counts_the_examples_that_are_left_to_train_on() -> None:
    body = {**BASICS, "validation_file": None, **supervised()}
    request = JobRequest.model_validate(body)
    assert request.validation_file is None
    assert (
        request.spec(examples=200).training
        == JobRequest.model_validate({**BASICS, **supervised()}).spec(examples=190).training
    )


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        ({"validation_file": "train.jsonl"}, ("validation_file",)),
        ({"priority": 101}, ("priority",)),
        ({"integrations": [{"type": "wandb"}]}, ("integrations",)),
        ({"hyperparameters": {"n_epochs": 1}, "method": {"type": "lora"}}, ()),
        ({"hyperparameters": {"n_epochs": 1}, **supervised()}, ("hyperparameters",)),
        ({"method": {"type": "reinforcement"}}, ("method",)),
        (supervised(n_epochs="many"), ("method", "supervised", "supervised", "hyperparameters", "n_epochs")),
        ({"validation_file": BASICS["training_file"]}, ()),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_place(request_: dict[str, Any], place: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate({**BASICS, **request_})
    assert [error["loc"] for error in caught.value.errors()] == [place]
