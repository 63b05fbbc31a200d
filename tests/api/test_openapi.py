"""The description tells clients everything they can meet, problems included; the committed one is the true one."""

import json
from pathlib import Path
from typing import Any

import pytest
from bitsmith_core.spec import JobRequest
from fastapi import FastAPI

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


@pytest.fixture
def description(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(description: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }


def references(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(child) for child in node.values()))
    return set().union(*(references(child) for child in node)) if isinstance(node, list) else set()


def test_every_operation_explains_itself(description: dict[str, Any]) -> None:
    for name, operation in operations(description).items():
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["operationId"].isidentifier(), name


def test_every_operation_documents_its_problems(description: dict[str, Any]) -> None:
    for name, operation in operations(description).items():
        expected = {"500"}
        if "/v1/" in name:
            expected |= {"401", "503"}
        if "requestBody" in operation:
            expected |= {"400", "413", "415", "422"}
        if "_id}" in name or "{name}" in name:
            expected |= {"404"}
        if any(parameter["in"] == "query" for parameter in operation.get("parameters", [])):
            expected |= {"422"}
        assert expected <= operation["responses"].keys(), name


def test_problems_have_one_form_everywhere(description: dict[str, Any]) -> None:
    for name, operation in operations(description).items():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert response["content"] == PROBLEM, (name, status)


def test_everything_under_v1_declares_the_key_but_the_door(description: dict[str, Any]) -> None:
    assert description["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    for name, operation in operations(description).items():
        asks_for_key = "/v1/" in name and name != "POST /v1/session"  # where a key is shown
        assert operation.get("security") == ([{"ApiKey": []}] if asks_for_key else None), name


def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
    assert references(description) <= known


def test_the_job_request_is_described_as_clients_write_it(description: dict[str, Any]) -> None:
    body = operations(description)["POST /v1/fine_tuning/jobs"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/JobRequest"}
    request = description["components"]["schemas"]["JobRequest"]
    assert "required" not in request, "an evaluation has neither a model nor a training file"
    assert "every method but `evaluate`" in request["properties"]["training_file"]["description"]
    assert set(request["properties"]["method"]["discriminator"]["mapping"]) == {
        "qsft", "quantize", "lora", "qlora", "evaluate", "supervised",
    }  # fmt: skip


def test_the_example_of_a_job_is_a_valid_one(description: dict[str, Any]) -> None:
    body = operations(description)["POST /v1/fine_tuning/jobs"]["requestBody"]["content"]["application/json"]
    assert JobRequest.model_validate(body["example"]).model == body["example"]["model"]


def test_lists_have_names_that_code_can_bear(description: dict[str, Any]) -> None:
    assert {"FileList", "JobList", "EventList", "ModelList"} <= description["components"]["schemas"].keys()


def test_the_committed_description_is_the_true_one(description: dict[str, Any]) -> None:
    # `python -m bitsmith_api.app.document > docs/openapi.json` writes it anew.
    assert json.loads(COMMITTED.read_text()) == json.loads(json.dumps(description))
