"""The generated definitions let through whatever the API takes, and drop nothing of it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from bitsmith_core.spec import JobSpec
from bitsmith_operator import crds
from bitsmith_operator.objects import FineTuneJob, WorkerPool
from structural import problems

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "operator" / "src" / "bitsmith_operator" / "crds"
FILE, OTHER = "file-06gvuiu6u1ubrcc88lmq39veek", "file-06gvuiu6u1s71fdsvden86rtik"


def schema_of(definition: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def test_the_definitions_are_what_the_models_say() -> None:
    on_disk = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert on_disk == crds.render(), "run python -m bitsmith_operator.crds operator/src/bitsmith_operator/crds"


REQUESTS: list[dict[str, Any]] = [
    {"model": "hf:org/tiny", "training_file": FILE},
    {"model": "hf:org/tiny", "training_file": FILE, "validation_file": OTHER, "suffix": "mine", "seed": 7,
     "metadata": {"team": "a"}},
    {"model": "hf:org/tiny", "training_file": FILE,
     "method": {"type": "qsft", "qsft": {"quantization": {"scheme": "layer-mix", "bpw": 2.5, "widths": [2, 4]},
                                         "training": {"epochs": 2}, "resources": {"device": "cpu"}}}},
    {"model": "hf:org/tiny", "training_file": FILE,
     "method": {"type": "quantize", "quantize": {"quantization": {"scheme": "uniform", "bits": 3}}}},
    {"model": "hf:org/tiny", "training_file": FILE, "method": {"type": "lora"}},
    {"model": "hf:org/tiny", "training_file": FILE, "method": {"type": "qlora", "qlora": {}}},
    {"model": "hf:org/tiny", "validation_file": OTHER,
     "method": {"type": "evaluate", "evaluate": {"version": "tiny-qsft@3"}}},
]  # fmt: skip


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_that_the_api_takes_passes_whole(request_: dict[str, Any]) -> None:
    """As it was written, and with every field written out."""
    schema = schema_of(crds.finetunejobs())
    spec = JobSpec.model_validate(request_)
    for written in (request_, spec.model_dump(mode="json")):
        assert list(problems({"spec": written}, schema)) == []
        assert JobSpec.model_validate(written) == spec


def test_what_the_api_refuses_for_its_type_or_range_the_server_refuses_first() -> None:
    schema = schema_of(crds.finetunejobs())
    for wrong in (
        {"seed": "one"},
        {"seed": -1},
        {"seed": 2**31},
        {"method": {"type": "magic"}},
        {"priority": 101},
        {"metadata": {"team": 7}},
    ):
        assert list(problems({"spec": {"model": "hf:org/tiny", **wrong}}, schema)), wrong
    assert list(problems({"spec": {"training_file": FILE}}, schema)) == [".spec.model: absent"]


def test_every_method_has_its_settings_in_the_definition() -> None:
    method = schema_of(crds.finetunejobs())["properties"]["spec"]["properties"]["method"]
    assert set(method["properties"]["type"]["enum"]) <= set(method["properties"])


def test_the_schemas_are_structural() -> None:
    """No reference, no union, no null type: an API server takes none of them."""
    text = "".join(crds.render().values())
    assert re.findall(r"^\s*(?:- )?(\$ref|oneOf|anyOf|allOf|const|prefixItems|default):", text, flags=re.M) == []
    assert "type: 'null'" not in text


def test_fields_of_the_cluster_are_no_part_of_the_request() -> None:
    body = {
        "metadata": {"name": "a", "namespace": "n", "uid": "u"},
        "spec": {**REQUESTS[0], "suspend": True, "priority": 3, "ttlSecondsAfterFinished": 60,
                 "deletionPolicy": "Orphan"},
    }  # fmt: skip
    assert list(problems(body["spec"], schema_of(crds.finetunejobs())["properties"]["spec"])) == []
    read = FineTuneJob.read(body)
    assert read.job_spec() == JobSpec.model_validate(REQUESTS[0])
    assert (read.spec.suspend, read.spec.priority, read.spec.deletion_policy) == (True, 3, "Orphan")


def documented(kind: str) -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "operator.md").read_text(), flags=re.S)
    return [body for block in blocks for body in yaml.safe_load_all(block) if body and body.get("kind") == kind]


@pytest.mark.parametrize("definition", [crds.finetunejobs(), crds.workerpools()])
def test_the_examples_in_the_docs_pass(definition: dict[str, Any]) -> None:
    kind = definition["spec"]["names"]["kind"]
    found = documented(kind)
    assert found
    for body in found:
        assert list(problems({"spec": body["spec"]}, schema_of(definition))) == []
        body["metadata"] |= {"uid": "u", "namespace": "n"}
        if kind == "FineTuneJob":
            FineTuneJob.read(body).job_spec()
        else:
            WorkerPool.model_validate(body)
