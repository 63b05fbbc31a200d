"""What is generated from the schema of values is what is in the repository, and the schema leaves no gap."""

import importlib.util
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.charts.conftest import CHART, ROOT


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("charts_generate", ROOT / "charts" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def objects_in(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object":
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from objects_in(child, f"{path}.{name}")
    yield from objects_in(schema.get("additionalProperties"), f"{path}.*")
    yield from objects_in(schema.get("items"), f"{path}[]")


def test_nothing_generated_is_stale(generate: ModuleType) -> None:
    """Fails when somebody edits values.yaml by hand, a program gets a new setting or a CRD changes."""
    assert [str(path.relative_to(ROOT)) for path in generate.stale()] == [], "run make charts-generate"


def test_a_name_that_nobody_knows_is_refused_at_every_level() -> None:
    """Only what has Kubernetes' own shape is open."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    gaps = {path for path, found in objects_in(schema) if "additionalProperties" not in found}
    of_kubernetes = ("affinity", "resources", "tolerations[]", "extraEnvFrom[]", "parentRefs[]", "extraManifests[]")
    of_others = ("apiFrom[]", "metricsFrom[]", ".global")  # global: other charts of an umbrella read it, too
    assert {path for path in gaps if not path.endswith((*of_kubernetes, *of_others))} == set()


def test_every_value_is_explained(generate: ModuleType) -> None:
    def unexplained(schema: dict[str, Any], path: str) -> Iterator[str]:
        for name, child in schema.get("properties", {}).items():
            if not child.get("description"):
                yield f"{path}.{name}"
            yield from unexplained(child, f"{path}.{name}")

    own = {path for path in unexplained(generate.load(), "") if ".settings." not in path}
    assert own == set()


def test_a_definition_of_the_operator_becomes_a_template_that_may_be_left_out(generate: ModuleType) -> None:
    text = generate.crd(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a.b.c}\n"
        "spec: {group: b.c, description: 'uses {{ braces }}'}\n",
        [],
    )
    assert text.startswith("{{- if .Values.crds.install }}\napiVersion: apiextensions.k8s.io/v1\n")
    assert "helm.sh/resource-policy: keep" in text
    assert '{{ "{{" }} braces }}' in text


def test_rules_stand_in_definitions_for_servers_that_know_them(generate: ModuleType) -> None:
    head = "apiVersion: v1\nkind: CustomResourceDefinition\nmetadata: {name: a.b.c}\nspec: {group: b.c}\n"
    rule = {"rule": "self.spec.a == oldSelf.spec.a", "message": "a stays", "fieldPath": ".spec.a"}
    text, without = generate.crd(head, [rule]), generate.crd(head, [])
    added = text.removeprefix(without.removesuffix("{{- end }}\n")).removesuffix("{{- end }}\n")
    first, *rules, last = added.splitlines()
    assert first.strip() == '{{- if semverCompare ">=1.29-0" .Capabilities.KubeVersion.Version }}'
    assert yaml.safe_load("\n".join(rules)) == {"x-kubernetes-validations": [rule]}
    assert last.strip() == "{{- end }}"
