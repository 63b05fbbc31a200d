"""python charts/generate.py [--check]: what follows from bitsmith/values.schema.yaml, and the copies of the CRDs.

values.schema.yaml is JSON Schema plus five words of ours, which are gone from what Helm reads:

    open: true          an object of Kubernetes' own shape; anything may stand in it
    partial: true       no defaults: what is left out comes from elsewhere
    values: {...}       defaults of the properties below, where a fragment is used with others
    settingsOf: a:B     properties are the fields of a pydantic settings class
    exclude: [...]      of those, the ones that the chart itself decides
"""

import argparse
import importlib
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from bitsmith_operator import rules

CHART = Path(__file__).parent / "bitsmith"
ROOT = Path(__file__).parents[1]
CRDS = ROOT / "operator" / "src" / "bitsmith_operator" / "crds"

Schema = dict[str, Any]

_OURS = {"open", "partial", "values", "settingsOf", "exclude"}
_OF_PYDANTIC = {"title", "format", "writeOnly", "default"}


def load() -> Schema:
    """The schema with our words resolved, every object closed unless it is open."""
    written = yaml.safe_load((CHART / "values.schema.yaml").read_text())
    return _resolved({"type": "object", "properties": written["properties"]}, None, is_partial=False)


def _resolved(node: Schema, value: Any, *, is_partial: bool) -> Schema:
    """Args: value: a default that somebody above gave; None if nobody did."""
    node = dict(node)
    is_partial = is_partial or node.get("partial", False)
    value = node.get("values") if value is None else value
    if "settingsOf" in node:
        fields = _fields(node["settingsOf"], node.get("exclude", []))
        node |= {"type": "object", "properties": fields, "default": value or {}}
    elif "properties" in node:
        given = value or {}
        node["properties"] = {
            name: _resolved(child, given.get(name), is_partial=is_partial) for name, child in node["properties"].items()
        }
    elif value is not None:
        node["default"] = value
    if isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = _resolved(node["additionalProperties"], None, is_partial=is_partial)
    if node.get("type") == "object" and "additionalProperties" not in node and not node.get("open"):
        node["additionalProperties"] = False
    if is_partial:
        node.pop("default", None)
    return {key: item for key, item in node.items() if key not in _OURS}


def _fields(place: str, exclude: list[str]) -> Schema:
    module, _, name = place.partition(":")
    schema = getattr(importlib.import_module(module), name).model_json_schema()
    return {
        field: _plain(found) for field, found in schema["properties"].items() if field not in exclude
    }  # no defaults: what is not set is the program's own business


def _plain(field: Schema) -> Schema:
    kept = {key: value for key, value in field.items() if key not in _OF_PYDANTIC}
    if options := [_plain(each) for each in kept.pop("anyOf", []) if each.get("type") != "null"]:
        kept |= options[0]
    if field.get("default") is not None:
        kept["description"] = f"{kept.get('description', '')} ({json.dumps(field['default'])})".strip()
    return kept


def defaults(schema: Schema) -> Any:
    if "default" in schema:
        return schema["default"]
    if "properties" in schema:
        return {name: defaults(child) for name, child in schema["properties"].items()}
    return {}


def schema_json(schema: Schema) -> str:
    """Without prose: people read README.md, and Helm stores this file in every release."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values", **_bare(schema)}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _bare(node: Any) -> Any:
    if isinstance(node, list):
        return [_bare(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "properties" in node and isinstance(node["properties"], dict):
        node = {**node, "properties": {name: _bare(child) for name, child in node["properties"].items()}}
    keep = {key: value for key, value in node.items() if key not in {"description", "default"}}
    return {key: value if key == "properties" else _bare(value) for key, value in keep.items()}


def values_yaml(schema: Schema) -> str:
    lines = ["# Written by `make charts-generate` from values.schema.yaml.", ""]
    for name, child in schema["properties"].items():
        lines += [*_commented(name, child, 0), ""]
    return "\n".join(lines[:-1]) + "\n"


def _commented(name: str, schema: Schema, depth: int) -> Iterator[str]:
    indent = "  " * depth
    yield from textwrap.wrap(schema["description"], 116, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    if "properties" in schema and "default" not in schema:
        yield f"{indent}{name}:"
        for child_name, child in schema["properties"].items():
            yield from _commented(child_name, child, depth + 1)
    else:
        yield f"{indent}{name}: {json.dumps(defaults(schema))}"


def table(schema: Schema) -> str:
    rows = ["| value | default | |", "|---|---|---|"]
    rows += [f"| `{path}` | `{json.dumps(value)}` | {text} |" for path, value, text in _leaves(schema, "")]
    return "\n".join(rows)


def _leaves(schema: Schema, prefix: str) -> Iterator[tuple[str, Any, str]]:
    for name, child in schema["properties"].items():
        path = f"{prefix}{name}"
        text = child["description"].replace("|", "\\|")
        if "properties" in child and "default" not in child:
            yield from _leaves(child, f"{path}.")
        else:
            yield path, defaults(child), text
            if "properties" in child:  # a program's settings
                for field, found in child["properties"].items():
                    yield f"{path}.{field}", None, found.get("description", "").replace("|", "\\|")


def readme(schema: Schema, present: str) -> str:
    begin, end = "<!-- values: begin -->", "<!-- values: end -->"
    head, _, rest = present.partition(begin)
    return f"{head}{begin}\n{table(schema)}\n{end}{rest.partition(end)[2]}"


def images(schema: Schema) -> str:
    """What a mirror must hold, one reference a line."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    found = defaults(schema["properties"]["images"]).values()
    return "".join(
        f"{'/'.join(part for part in (image['registry'], image['repository']) if part)}:{image['tag'] or version}\n"
        for image in found
    )


def crd(text: str, checked: list[dict[str, str]]) -> str:
    """One of the operator's definitions as a template that the values can keep or leave out.

    Args:
        checked: rules, for servers that know such.
    """
    definition = yaml.safe_load(text)
    body = {key: value for key, value in definition.items() if key not in {"metadata", "apiVersion", "kind"}}
    # What Go templates would take for theirs.
    dumped = yaml.safe_dump(body, sort_keys=False, width=120).replace("{{", '{{ "{{" }}')
    return (
        "{{- if .Values.crds.install }}\n"
        f"apiVersion: {definition['apiVersion']}\nkind: {definition['kind']}\n"
        f"metadata:\n  name: {definition['metadata']['name']}\n"
        '  labels: {{- include "bitsmith.labels" (dict "root" $ "component" "crds") | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
        f"{dumped}{_rules(checked)}"
        "{{- end }}\n"
    )


def _rules(checked: list[dict[str, str]]) -> str:
    """The end of the schema, which is the end of the definition."""
    dumped = yaml.safe_dump({"x-kubernetes-validations": checked}, sort_keys=False, width=110)
    condition = f'{{{{- if semverCompare ">={rules.SINCE}-0" .Capabilities.KubeVersion.Version }}}}'
    return textwrap.indent(f"{condition}\n{dumped}{{{{- end }}}}\n", 8 * " ") if checked else ""


def generated() -> dict[Path, str]:
    schema = load()
    files = {
        CHART / "values.schema.json": schema_json(schema),
        CHART / "values.yaml": values_yaml(schema),
        CHART / "README.md": readme(schema, (CHART / "README.md").read_text()),
        CHART / "images.txt": images(schema),
    }
    checked = rules.of_definitions()
    for source in sorted(CRDS.glob("*.yaml")):
        files[CHART / "templates" / "crds" / source.name] = crd(source.read_text(), checked[source.name])
    return files


def stale() -> list[Path]:
    """Files that are not what they should be, and definitions that nothing stands behind any more."""
    wanted = generated()
    wrong = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    return wrong + [path for path in (CHART / "templates" / "crds").glob("*.yaml") if path not in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write what follows from values.schema.yaml.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is stale")
    if parser.parse_args().check:
        for path in stale():
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale; run make charts-generate\n")
        return 1 if stale() else 0
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in stale():  # a definition whose source is gone
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
