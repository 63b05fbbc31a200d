"""JSON's types are taken as they come: a truth value is no number, and a number in quotes is text."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import Platform, assert_problem

CHAT = {"model": "a", "messages": [{"role": "user", "content": "?"}]}


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/projects", {"name": "a", "limits": {"storage_bytes": False}}, "/limits/storage_bytes"),
        ("/v1/projects", {"name": "a", "limits": {"open_jobs": "5"}}, "/limits/open_jobs"),
        ("/v1/projects", {"name": "a", "weight": True}, "/weight"),
        ("/v1/projects", {"name": 5}, "/name"),
        ("/v1/api_keys", {"name": "a", "expires_at": "4102444800"}, "/expires_at"),
        ("/v1/webhooks", {"url": "https://1.1.1.1/", "events": "fine_tuning.job.failed"}, "/events"),
        ("/v1/chat/completions", {**CHAT, "seed": "1"}, "/seed"),
        ("/v1/chat/completions", {**CHAT, "stream": 1}, "/stream"),
    ],
)
def test_another_type_is_refused_with_its_place(
    client: TestClient, path: str, body: dict[str, Any], pointer: str
) -> None:
    assert_problem(client.post(path, json=body), 422, "invalid_request", pointer)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"seed": True}, "/seed"),
        ({"seed": "5"}, "/seed"),
        ({"method": {"type": "qsft", "qsft": {"training": {"epochs": "2"}}}}, "/method/qsft/training/epochs"),
        ({"method": {"type": "qsft", "qsft": {"training": {"packing": 1}}}}, "/method/qsft/training/packing"),
    ],
)
def test_a_jobs_settings_are_taken_as_strictly_when_it_is_submitted_and_when_it_is_cloned(
    platform: Platform, changes: dict[str, Any], pointer: str
) -> None:
    spec = platform.request(**changes)
    assert_problem(platform.client.post("/v1/fine_tuning/jobs", json=spec), 422, "invalid_spec", pointer)
    source = platform.submit()
    answer = platform.client.post(f"/v1/fine_tuning/jobs/{source}/clone", json=changes)
    assert_problem(answer, 422, "invalid_spec", pointer)


def test_lists_are_lists_wherever_they_stand(platform: Platform) -> None:
    mix = {"type": "qsft", "qsft": {"quantization": {"scheme": "layer-mix", "bpw": 5, "widths": [4, 8]}}}
    job = platform.submit(method=mix)
    answer = platform.client.post(f"/v1/fine_tuning/jobs/{job}/clone", json={"seed": 1}).json()
    assert answer["method"]["qsft"]["quantization"]["widths"] == [4, 8]


def test_a_webhook_is_enabled_by_true_and_by_nothing_that_resembles_it(client: TestClient) -> None:
    webhook = client.post("/v1/webhooks", json={"url": "https://1.1.1.1/"}).json()["id"]
    for enabled in (0, "false"):
        answer = client.patch(f"/v1/webhooks/{webhook}", json={"enabled": enabled})
        assert_problem(answer, 422, "invalid_request", "/enabled")
    assert client.get(f"/v1/webhooks/{webhook}").json()["enabled"] is True


def test_whole_numbers_stand_for_fractions(client: TestClient) -> None:
    assert client.post("/v1/projects", json={"name": "blue", "weight": 2}).json()["weight"] == 2.0
