"""What an API server does with an object under a structural schema, in few lines: an oracle for the generated CRDs."""

from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip


def problems(value: Any, schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """What a server refuses, and what it drops without a word because the schema does not name it."""
    if value is None:
        if not schema.get("nullable") and "type" in schema:
            yield f"{at}: null"
        return
    kind = schema.get("type")
    if kind is None:
        return  # unknown fields are preserved
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        yield f"{at}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from _out_of_range(value, schema, at)
    if isinstance(value, dict):
        yield from (f"{at}.{name}: absent" for name in schema.get("required", []) if name not in value)
        for name, part in value.items():
            if name in schema.get("properties", {}):
                yield from problems(part, schema["properties"][name], f"{at}.{name}")
            elif "additionalProperties" in schema:
                yield from problems(part, schema["additionalProperties"], f"{at}.{name}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{at}.{name}: pruned"
    if isinstance(value, list):
        for number, part in enumerate(value):
            yield from problems(part, schema["items"], f"{at}[{number}]")


def _out_of_range(value: float, schema: dict[str, Any], at: str) -> Iterator[str]:
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    is_low = value <= low if schema.get("exclusiveMinimum") else value < low
    is_high = value >= high if schema.get("exclusiveMaximum") else value > high
    if is_low or is_high:
        yield f"{at}: {value} is out of range"
