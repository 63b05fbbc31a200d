"""A spec file and settings from the command line as one request. Pure; whether it makes sense, the server says."""

import json
from typing import Any

Json = dict[str, Any]


class BadSpec(ValueError):
    pass


def parse(text: str) -> Json:
    try:
        spec = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadSpec(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    if not isinstance(spec, dict):
        raise BadSpec(f"a spec is a JSON object, not a {type(spec).__name__}")
    return spec


def with_setting(spec: Json, setting: str) -> Json:
    """The spec with `method.qsft.training.max_steps=10` in it; a value that is no JSON is a string."""
    path, equals, text = setting.partition("=")
    names = path.split(".")
    if not equals or not all(names):
        raise BadSpec(f"{setting!r} sets nothing; write a.b.c=value, e.g. method.qsft.training.max_steps=10")
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return _put(spec, names, value, setting)


def _put(spec: Json, names: list[str], value: Any, setting: str) -> Json:
    head, *rest = names
    if not rest:
        return {**spec, head: value}
    inner = spec.get(head, {})
    if not isinstance(inner, dict):
        raise BadSpec(f"{setting!r} sets something inside {head}, which is {inner!r}")
    return {**spec, head: _put(inner, rest, value, setting)}
