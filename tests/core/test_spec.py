"""The public contract: defaults are filled in, mistakes are refused, equal requests have equal digests."""

import pytest
from bitsmith_core.ids import new_file_id
from bitsmith_core.spec import (
    JobRequest,
    JobSpec,
    LayerMixQuantization,
    QsftMethod,
    QuantizeMethod,
    base_slug,
    hub_reference,
    local_path,
)
from pydantic import ValidationError

TRAINING, VALIDATION = new_file_id(), new_file_id()
SAME_SCORE_TWICE = [{"task": "piqa", "file": TRAINING}, {"task": "piqa", "file": VALIDATION}]


def request(**changes: object) -> dict[str, object]:
    return {"model": "hf:org/Some-Model", "training_file": TRAINING, "validation_file": VALIDATION, **changes}


def test_the_shortest_request_is_complete_after_reading_it() -> None:
    spec = JobSpec.model_validate(request())
    assert isinstance(spec.method, QsftMethod)
    assert spec.method.qsft.quantization.scheme == "layer-mix"
    assert spec.model_name == "some-model-qsft"


def test_a_spec_survives_json() -> None:
    spec = JobSpec.model_validate(request(suffix="x", metadata={"team": "a"}))
    again = JobSpec.model_validate_json(spec.model_dump_json())
    assert (again, again.sha256) == (spec, spec.sha256)


def test_a_budget_in_bytes_takes_the_place_of_the_default_in_bits() -> None:
    asked = {"scheme": "layer-mix", "budget_bytes": 50_000_000}
    spec = JobSpec.model_validate(request(method={"type": "quantize", "quantize": {"quantization": asked}}))
    assert isinstance(spec.method, QuantizeMethod)
    quantization = spec.method.quantize.quantization
    assert isinstance(quantization, LayerMixQuantization)
    assert (quantization.bpw, quantization.budget_bytes) == (None, 50_000_000)
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec, "what is stored can be read again"


def test_defaults_written_out_are_the_same_request() -> None:
    assert JobSpec.model_validate(request()).sha256 == JobSpec.model_validate(request(seed=0)).sha256


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"model": "gpt-4o"}, "model"),
        ({"model": "local:../etc/passwd"}, "model"),
        ({"model": "local:/etc/passwd"}, "model"),
        ({"model": "hf:org"}, "model"),
        ({"training_file": "train.jsonl"}, "training_file"),
        ({"validation_file": TRAINING}, ""),
        ({"suffix": "Not A Name"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"epochs": 3}, "epochs"),
        ({"method": {"type": "qsft", "qsft": {"quantization": {"scheme": "layer-mix", "bpw": 1.5}}}}, "bpw"),
        ({"method": {"type": "qsft", "qsft": {"quantization": {"scheme": "uniform", "bits": 5}}}}, "bits"),
        ({"method": {"type": "qsft", "qsft": {"training": {"optimizer": {"flip_budget": 2}}}}}, "flip_budget"),
        ({"method": {"type": "full"}}, "method"),
        ({"method": {"type": "lora", "lora": {"quantization": {}}}}, "quantization"),
        ({"method": {"type": "qsft", "qsft": {"training": {"optimizer": {"mode": "rank"}}}}}, "optimizer"),
        (
            {"method": {"type": "qsft", "qsft": {"quantization": {"scheme": "layer-mix", "bpw": 5, "widths": [2, 4]}}}},
            "layer-mix",
        ),
        (
            {
                "method": {
                    "type": "qsft",
                    "qsft": {"quantization": {"scheme": "layer-mix", "bpw": 3, "budget_bytes": 10**9}},
                }
            },
            "budget_bytes",
        ),
        ({"method": {"type": "qsft", "qsft": {"quantization": {"scheme": "layer-mix", "bpw": None}}}}, "layer-mix"),
        (
            {"method": {"type": "qsft", "qsft": {"quantization": {"scheme": "layer-mix", "budget_bytes": 0}}}},
            "budget_bytes",
        ),
        (
            {"method": {"type": "qsft", "qsft": {"quantization": {"scheme": "channel-mix", "budget_bytes": 10**9}}}},
            "budget_bytes",
        ),
        (
            {"method": {"type": "qsft", "qsft": {"evaluation": {"benchmarks": [{"task": "x", "file": TRAINING}]}}}},
            "task",
        ),
        ({"method": {"type": "qsft", "qsft": {"evaluation": {"benchmarks": SAME_SCORE_TWICE}}}}, "evaluation"),
    ],
)
def test_a_mistake_is_refused_where_it_is(changes: dict[str, object], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(request(**changes))
    location = caught.value.errors()[0]["loc"]
    assert (str(location[-1]) if location else "") == place


EVALUATE: dict[str, object] = {"type": "evaluate", "evaluate": {"version": "tiny-qsft@3"}}


def test_an_evaluation_needs_no_training_file_and_names_its_version() -> None:
    spec = JobSpec.model_validate({"model": "hf:org/tiny", "validation_file": VALIDATION, "method": EVALUATE})
    assert (spec.evaluates, spec.model_name, spec.training, spec.training_file) == (
        "tiny-qsft@3",
        "tiny-qsft",
        None,
        None,
    )
    assert spec.needs_base
    assert spec.max_length == 512
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "there is nothing to be scored on"),
        ({"training_file": TRAINING}, "training_file has no place in an evaluate job"),
        ({"method": {"type": "evaluate", "evaluate": {"version": "a/b"}}}, "names no version"),
        ({"method": {"type": "evaluate", "evaluate": {}}}, "Field required"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        JobSpec.model_validate({"model": "hf:org/tiny", "method": EVALUATE} | changes)


@pytest.mark.parametrize("name", ["model", "training_file"])
def test_every_other_method_needs_a_model_and_a_training_file(name: str) -> None:
    wanted = request()
    del wanted[name]
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(wanted)
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [((name,), "missing")]


def test_an_evaluations_model_is_left_to_the_server_until_it_is_submitted() -> None:
    wanted = {"validation_file": VALIDATION, "method": EVALUATE}
    asked = JobRequest.model_validate(wanted)
    spec = asked.evaluation(version="tiny-qsft@7", base_model="hf:org/tiny")
    assert (spec.model, spec.evaluates, spec.validation_file) == ("hf:org/tiny", "tiny-qsft@7", VALIDATION)
    with pytest.raises(ValidationError, match="Field required"):
        JobSpec.model_validate(wanted)


def test_references_are_taken_apart() -> None:
    assert hub_reference("hf:org/name@v1.0") == ("org/name", "v1.0")
    assert hub_reference("hf:org/name") == ("org/name", None)
    assert hub_reference("local:x.gguf") is None
    assert local_path("local:folder/x.gguf") == "folder/x.gguf"
    assert base_slug("local:folder/SmolLM2-135M.Q4_1.gguf") == "smollm2-135m-q4-1"
