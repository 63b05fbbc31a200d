"""An error's place is a JSON pointer into what the client wrote, free of our tags and markers."""

from typing import Any

import pytest
from bitsmith_api.deps.pointers import problems_of
from bitsmith_core.ids import new_file_id
from bitsmith_core.spec import JobSpec
from pydantic import ValidationError

VALID = {"model": "hf:org/tiny", "training_file": new_file_id(), "validation_file": new_file_id()}


def places(**changes: Any) -> dict[str, str]:
    """Code by pointer."""
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({**VALID, **changes})
    return {problem.pointer: problem.code for problem in problems_of(JobSpec, caught.value.errors())}


def qsft(**settings: Any) -> dict[str, Any]:
    return {"type": "qsft", "qsft": settings}


WRONG: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"seed": -1}, {"/seed": "greater_than_equal"}),
    ({"model": "tiny"}, {"/model": "value_error"}),
    ({"colour": "red"}, {"/colour": "unknown_field"}),
    ({"a/b~c": 1}, {"/a~1b~0c": "unknown_field"}),
    ({"metadata": {"k" * 65: "v"}}, {f"/metadata/{'k' * 65}": "string_too_long"}),
    ({"metadata": {"k": "a\0b"}}, {"/metadata/k": "string_pattern_mismatch"}),
    ({"metadata": []}, {"/metadata": "not_an_object"}),
    ({"method": 5}, {"/method": "not_an_object"}),
    ({"method": {}}, {"/method": "missing"}),
    ({"method": {"type": "zip"}}, {"/method/type": "unknown_choice"}),
    ({"method": {"type": "qsft", "quantize": {}}}, {"/method/quantize": "unknown_field"}),
    ({"method": {"type": "qsft", "qsft": {}, "type2": 1}}, {"/method/type2": "unknown_field"}),
    ({"method": qsft(training=5)}, {"/method/qsft/training": "not_an_object"}),
    ({"method": qsft(exports=["bf16", "zip"])}, {"/method/qsft/exports/1": "literal_error"}),
    (
        {"method": qsft(quantization={"scheme": "layer-mix", "bpw": 9})},
        {"/method/qsft/quantization/bpw": "less_than_equal"},
    ),
    (
        {"method": qsft(quantization={"scheme": "uniform", "bits": 5, "bpw": 3})},
        {"/method/qsft/quantization/bits": "literal_error", "/method/qsft/quantization/bpw": "unknown_field"},
    ),
    ({"method": qsft(quantization={"scheme": "zip"})}, {"/method/qsft/quantization/scheme": "unknown_choice"}),
    (
        {"method": qsft(evaluation={"multiple_choice": {"choices": 1}})},
        {"/method/qsft/evaluation/multiple_choice/choices": "greater_than_equal"},
    ),
    (
        {"method": {"type": "quantize", "quantize": {"max_length": 1}}},
        {"/method/quantize/max_length": "greater_than_equal"},
    ),
    ({"validation_file": VALID["training_file"]}, {"": "value_error"}),
]


@pytest.mark.parametrize(("changes", "expected"), WRONG)
def test_every_place_is_named_as_the_client_wrote_it(changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert places(**changes) == expected


def test_a_missing_field_is_named_where_it_belongs() -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({})
    problems = problems_of(JobSpec, caught.value.errors())
    assert [(problem.pointer, problem.code) for problem in problems] == [
        ("/model", "missing"),
        ("/training_file", "missing"),
    ]


@pytest.mark.parametrize("changes", [changes for changes, places in WRONG if places.keys().isdisjoint({"", "/model"})])
def test_what_is_missing_is_told_beside_what_is_wrong_in_the_same_words(changes: dict[str, Any]) -> None:
    def told(spec: dict[str, Any]) -> list[tuple[str, str, str]]:
        with pytest.raises(ValidationError) as caught:
            JobSpec.model_validate(spec)
        return [(found.pointer, found.code, found.detail) for found in problems_of(JobSpec, caught.value.errors())]

    without_model = {name: value for name, value in VALID.items() if name != "model"}
    assert told({**without_model, **changes}) == [*told(without_model), *told({**VALID, **changes})]


def test_an_unknown_field_comes_with_the_known_ones() -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({**VALID, "method": qsft(training={"epoch": 2})})
    (problem,) = problems_of(JobSpec, caught.value.errors())
    assert "epochs" in problem.detail


def test_words_are_a_clients_not_pydantics() -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate([])
    (problem,) = problems_of(JobSpec, caught.value.errors())
    assert (problem.pointer, problem.detail) == ("", "expected a JSON object")
