"""From pydantic's JSON Schema to what a CustomResourceDefinition takes. Pure.

A structural schema has no $ref, no union of shapes and no null: references are written out, an optional value becomes
`nullable`, and the shapes of a union become one object with the fields of all. That lets more through than the models
do; the operator reads every object with the models and says in its status what is wrong.
"""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Schema = dict[str, Any]

_KEPT = (
    "type", "description", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "maxItems", "minProperties", "maxProperties", "required", "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip


def structural(model: type[BaseModel]) -> Schema:
    """The object's structural schema, fields by their aliases, without defaults: those are decided by who reads it."""
    _, document = models_json_schema([(model, "validation")], by_alias=True)
    definitions = document["$defs"]
    return _structural(definitions[model.__name__], definitions)


def _structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    if "$ref" in schema:
        return _structural(definitions[schema["$ref"].rpartition("/")[2]] | _own_words(schema), definitions)
    shapes = schema.get("oneOf") or schema.get("anyOf")
    if shapes is not None:
        return _union(shapes, definitions) | _own_words(schema)
    result = {name: schema[name] for name in _KEPT if name in schema}
    if "const" in schema:
        result |= {"type": _type_of(schema["const"]), "enum": [schema["const"]]}
    for bound, strict in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if strict in schema:
            result |= {bound: schema[strict], strict: True}
    if schema.get("type") == "array":
        items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        result["items"] = _structural(items, definitions)
    if "properties" in schema:
        result["properties"] = {name: _structural(part, definitions) for name, part in schema["properties"].items()}
    elif (values := _values(schema)) is not None:
        result["additionalProperties"] = _structural(values, definitions)
    elif schema.get("type") == "object":
        result["x-kubernetes-preserve-unknown-fields"] = True
    return result


def _values(schema: Schema) -> Schema | None:
    """What each value of a map is; what its names may be is left to who reads it."""
    shapes = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
    some = [shape for shape in shapes if isinstance(shape, dict)]
    return some[0] if len(some) == 1 else None


def _own_words(schema: Schema) -> Schema:
    return {"description": schema["description"]} if "description" in schema else {}


def _union(shapes: list[Schema], definitions: dict[str, Schema]) -> Schema:
    """One schema that lets every shape through."""
    some = [_structural(shape, definitions) for shape in shapes if shape.get("type") != "null"]
    nullable: Schema = {"nullable": True} if len(some) < len(shapes) else {}
    first, *others = some
    for other in others:
        first = _merged(first, other)
    return first | nullable


def _merged(one: Schema, other: Schema) -> Schema:
    if one == other:
        return one
    if {one.get("type"), other.get("type")} == {"integer", "number"}:
        return {"type": "number"}
    if one.get("type") != other.get("type"):
        return {"x-kubernetes-preserve-unknown-fields": True}
    if one.get("type") != "object":
        values = [*one.get("enum", []), *other.get("enum", [])]
        both = {"type": one["type"]}
        return both | {"enum": list(dict.fromkeys(values))} if one.get("enum") and other.get("enum") else both
    properties = dict(one.get("properties", {}))
    for name, part in other.get("properties", {}).items():
        properties[name] = _merged(properties[name], part) if name in properties else part
    required = [name for name in one.get("required", []) if name in other.get("required", [])]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _type_of(value: object) -> str:
    return {str: "string", bool: "boolean", int: "integer", float: "number"}[type(value)]
