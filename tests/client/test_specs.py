"""A spec file and --set make one request, or a message that names the place."""

from typing import Any

import pytest
from bitsmith_client.cli import specs

SPEC: dict[str, Any] = {"model": "hf:a/b", "method": {"type": "qsft", "qsft": {"training": {"max_steps": 30}}}}


def test_a_setting_changes_one_place_and_leaves_the_original() -> None:
    changed = specs.with_setting(SPEC, "method.qsft.training.max_steps=10")
    assert changed["method"]["qsft"]["training"] == {"max_steps": 10}
    assert SPEC["method"]["qsft"]["training"] == {"max_steps": 30}


def test_a_setting_makes_the_way_to_its_place() -> None:
    assert specs.with_setting({}, "method.qsft.quantization.bpw=2.5") == {
        "method": {"qsft": {"quantization": {"bpw": 2.5}}}
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("2.5", 2.5), ("true", True), ("null", None), ("abc", "abc"), ('"7"', "7"), ("a=b", "a=b")],
)
def test_values_are_json_where_they_can_be(text: str, value: object) -> None:
    assert specs.with_setting({}, f"x={text}") == {"x": value}


@pytest.mark.parametrize("setting", ["seed", "=1", "a..b=1", "model.name=1"])
def test_a_setting_that_sets_nothing_is_refused(setting: str) -> None:
    with pytest.raises(specs.BadSpec, match="sets"):
        specs.with_setting(SPEC, setting)


@pytest.mark.parametrize(("text", "message"), [("{", "line 1, column 2"), ("[1]", "not a list")])
def test_a_file_that_is_no_spec_is_said(text: str, message: str) -> None:
    with pytest.raises(specs.BadSpec, match=message):
        specs.parse(text)
