"""YAML as model cards begin with it, written without a library: what is written here, every YAML 1.1 reader reads."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence

Value = str | int | float | bool | None | Sequence["Value"] | Mapping[str, "Value"]


def write(fields: Mapping[str, Value]) -> str:
    """Between its two lines of dashes. Keys must be plain words; texts may be anything."""
    return "\n".join(["---", *_mapping(fields), "---", ""])


def _mapping(fields: Mapping[str, Value]) -> Iterator[str]:
    for key, value in fields.items():
        if _is_block(value):
            yield f"{key}:"
            yield from (f"  {line}" for line in _block(value))
        else:
            yield f"{key}: {_inline(value)}"


def _block(value: Value) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _mapping(value)
    elif isinstance(value, Sequence):
        for item in value:
            lines = _block(item) if _is_block(item) else [_inline(item)]
            yield from (f"{'- ' if number == 0 else '  '}{line}" for number, line in enumerate(lines))


def _is_block(value: Value) -> bool:
    return isinstance(value, Mapping | Sequence) and not isinstance(value, str) and len(value) > 0


def _inline(value: Value) -> str:
    if isinstance(value, str):
        return '"' + "".join(map(_character, value)) + '"'
    if isinstance(value, float):
        return _float(value)
    return json.dumps(value)  # null, true, 12, [], {}


def _character(character: str) -> str:
    """YAML's double quotes know JSON's escapes; beyond them every reader takes printable characters as they are."""
    if character in '"\\' or ord(character) < 0x20:
        return json.dumps(character)[1:-1]
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}" if ord(character) > 0xFFFF else f"\\u{ord(character):04x}"


def _float(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    mantissa, e, exponent = repr(value).partition("e")
    if "." not in mantissa:
        mantissa += ".0"  # without a point YAML 1.1 reads a text
    return mantissa + e + exponent
