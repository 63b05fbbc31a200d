"""A job is queued once, answered resolved, refused with every wrong place named, and cancelled only while it can be."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from bitsmith_core import jobs
from bitsmith_core.ids import JobId, new_file_id, new_job_id
from bitsmith_core.wire import Failed, FailureClass, Progress, Stage, StageStarted
from fastapi.testclient import TestClient

from tests.api.conftest import AUTHORIZED, Platform, assert_problem

PATH = "/v1/fine_tuning/jobs"
JSON = {"Content-Type": "application/json"}


def count(client: TestClient) -> int:
    return len(client.get(PATH).json()["data"])


def test_a_submitted_job_waits_with_every_default_resolved(platform: Platform) -> None:
    request = platform.request(suffix="demo", metadata={"team": "blue"})
    job = platform.client.post(PATH, json=request).json()
    assert job.items() >= request.items()
    assert job["method"]["qsft"]["training"]["batch_size"] == 8
    assert job["method"]["qsft"]["quantization"] == {
        "scheme": "layer-mix",
        "bpw": 3.0,
        "calibration_samples": 16,
        "clip_search": True,
        "widths": [2, 4],
        "symmetric": False,
        "group_size": None,
        "initial": "gptq",
        "distillation": {
            "samples": 128, "max_length": 256, "block_epochs": 2, "end_to_end_epochs": 1, "teacher_top_k": 64,
        },
    }  # fmt: skip
    assert (job["object"], job["status"], job["desired_state"]) == ("fine_tuning.job", "queued", "run")
    assert (job["stage"], job["progress"], job["status_reason"], job["error"]) == (None, {}, None, None)
    assert (job["attempts"], job["started_at"], job["finished_at"], job["fine_tuned_model"]) == (0, None, None, None)
    assert isinstance(job["created_at"], int)
    assert platform.client.get(f"{PATH}/{job['id']}").json() == job


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": NaN}', b"\xff", b"[" * 5000, b'{"model": "\\ud800"}', b"{} x"])
def test_a_body_that_is_not_json_answers_400_and_where(client: TestClient, body: bytes) -> None:
    document = assert_problem(client.post(PATH, content=body, headers=JSON), 400, "malformed_request")
    assert "line 1 column" in document["detail"]


def test_a_body_in_another_format_answers_415(client: TestClient) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.post(PATH, content=b"{}", headers={"Content-Type": content_type})
        assert_problem(answer, 415, "unsupported_media_type")


def test_a_json_body_may_name_its_charset(platform: Platform) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert platform.client.post(PATH, json=platform.request(), headers=headers).status_code == 200


def test_a_body_without_end_answers_413(client: TestClient) -> None:
    assert_problem(client.post(PATH, content=b" " * 2_000_000, headers=JSON), 413, "payload_too_large")


def test_every_wrong_place_is_named_at_once_and_nothing_is_queued(platform: Platform) -> None:
    request = platform.request(
        colour="red", method={"type": "qsft", "qsft": {"quantization": {"scheme": "layer-mix", "bpw": 1}}}
    )
    del request["model"]
    answer = platform.client.post(PATH, json=request)
    document = assert_problem(answer, 422, "invalid_spec", "/model", "/method/qsft/quantization/bpw", "/colour")
    assert document["error"]["param"] == "model"
    assert count(platform.client) == 0


def test_a_file_that_does_not_exist_is_named(platform: Platform) -> None:
    answer = platform.client.post(PATH, json=platform.request(validation_file=new_file_id()))
    document = assert_problem(answer, 422, "invalid_spec", "/validation_file")
    assert document["errors"][0]["code"] == "unknown_file"


def test_a_dry_run_answers_the_resolved_request_and_writes_nothing(platform: Platform) -> None:
    request = platform.request()
    answer = platform.client.post(PATH, params={"dry_run": "true"}, json=request, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 200
    resolved = answer.json()
    assert resolved.items() >= request.items()
    assert resolved["method"]["type"] == "qsft"
    assert resolved["method"]["qsft"]["training"]["epochs"] == 1
    assert count(platform.client) == 0
    real = platform.client.post(PATH, json=resolved, headers={"Idempotency-Key": "k"})
    assert "idempotent-replayed" not in real.headers


def test_a_dry_run_refuses_what_a_real_one_would(platform: Platform) -> None:
    request = platform.request(training_file=new_file_id())
    answer = platform.client.post(PATH, params={"dry_run": "true"}, json=request)
    assert_problem(answer, 422, "invalid_spec", "/training_file")


def test_the_same_key_and_body_make_one_job(platform: Platform) -> None:
    request, headers = platform.request(), {"Idempotency-Key": "order 66"}
    first = platform.client.post(PATH, json=request, headers=headers)
    again = platform.client.post(PATH, json={**request, "seed": 0}, headers=headers)  # the default, spelled out
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert count(platform.client) == 1


def test_the_same_key_at_the_same_moment_makes_one_job(served: str, platform: Platform) -> None:
    request, headers = platform.request(), {**AUTHORIZED, "Idempotency-Key": "k"}
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: httpx.post(served + PATH, json=request, headers=headers), range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 11


def test_the_same_key_with_another_body_is_refused(platform: Platform) -> None:
    request, headers = platform.request(), {"Idempotency-Key": "k"}
    platform.client.post(PATH, json=request, headers=headers)
    answer = platform.client.post(PATH, json={**request, "seed": 7}, headers=headers)
    assert_problem(answer, 422, "idempotency_mismatch")
    assert count(platform.client) == 1


def test_a_key_has_bounds(platform: Platform) -> None:
    request = platform.request()
    for key in ("", "x" * 256):
        answer = platform.client.post(PATH, json=request, headers={"Idempotency-Key": key})
        assert_problem(answer, 422, "invalid_request", "header Idempotency-Key")
    assert platform.client.post(PATH, json=request, headers={"Idempotency-Key": "x" * 255}).status_code == 200


def test_jobs_are_listed_newest_first_page_by_page(platform: Platform) -> None:
    ids = [platform.submit() for _ in range(3)]
    first = platform.client.get(PATH, params={"limit": 2}).json()
    second = platform.client.get(PATH, params={"limit": 2, "after": first["last_id"]}).json()
    assert [job["id"] for job in first["data"] + second["data"]] == ids[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_jobs_are_listed_by_status(platform: Platform) -> None:
    waiting, running, cancelled = (platform.submit() for _ in range(3))
    platform.claim(running)
    platform.client.post(f"{PATH}/{cancelled}/cancel")

    def listed(*statuses: str) -> list[str]:
        return [job["id"] for job in platform.client.get(PATH, params={"status": statuses}).json()["data"]]

    assert listed("queued") == [waiting]
    assert listed("running", "cancelled") == [cancelled, running]
    assert listed("failed") == []
    assert_problem(platform.client.get(f"{PATH}?status=lost"), 422, "invalid_request", "query status")


@pytest.mark.parametrize("action", ["", "/cancel", "/events"])
@pytest.mark.parametrize("unknown", [new_job_id(), "ftjob-x", "%00"])
def test_an_unknown_job_answers_404(client: TestClient, unknown: str, action: str) -> None:
    method = "POST" if action == "/cancel" else "GET"
    assert_problem(client.request(method, f"{PATH}/{unknown}{action}"), 404, "not_found")


def test_a_running_job_shows_how_far_it_is(platform: Platform) -> None:
    job_id = platform.submit()
    lease = platform.claim(job_id)
    with platform.database.transaction() as tx:
        jobs.record(tx, lease, StageStarted(stage=Stage.TRAINING))
        jobs.record(tx, lease, Progress(stage=Stage.TRAINING, done=3, total=9, eta_s=4.5, metrics={"loss": 2.0}))
    job = platform.client.get(f"{PATH}/{job_id}").json()
    assert (job["status"], job["stage"], job["attempts"]) == ("running", "training", 1)
    assert job["progress"] == {"stage": "training", "done": 3, "total": 9, "eta_s": 4.5}
    assert isinstance(job["started_at"], int)


def test_a_failed_job_says_why(platform: Platform) -> None:
    job_id = platform.submit()
    lease = platform.claim(job_id)
    with platform.database.transaction() as tx:
        jobs.fail(tx, lease, Failed(failure=FailureClass.DATA, code="bad_data", message="Line 3 is empty."))
    job = platform.client.get(f"{PATH}/{job_id}").json()
    assert job["status"] == "failed"
    assert job["status_reason"] == {"code": "bad_data", "message": "Line 3 is empty."}
    assert job["error"] == {"code": "bad_data", "message": "Line 3 is empty.", "param": None}


def test_a_succeeded_job_names_what_it_published(platform: Platform) -> None:
    job_id = platform.publish("tiny-demo")
    job = platform.client.get(f"{PATH}/{job_id}").json()
    assert (job["status"], job["fine_tuned_model"]) == ("succeeded", "tiny-demo@1")
    assert platform.client.get(PATH).json()["data"] == [job]


def test_a_waiting_job_is_cancelled_at_once_and_again(platform: Platform) -> None:
    job_id = platform.submit()
    for _ in range(2):
        job = platform.client.post(f"{PATH}/{job_id}/cancel").json()
        assert (job["status"], job["desired_state"]) == ("cancelled", "cancel")
        assert isinstance(job["finished_at"], int)


def test_a_running_job_is_asked_to_stop(platform: Platform) -> None:
    job_id = platform.submit()
    platform.claim(job_id)
    job = platform.client.post(f"{PATH}/{job_id}/cancel").json()
    assert (job["status"], job["desired_state"]) == ("running", "cancel")


def test_a_finished_job_cannot_be_cancelled(platform: Platform) -> None:
    job_id: JobId = platform.submit()
    platform.finish(platform.claim(job_id))
    document: dict[str, Any] = assert_problem(
        platform.client.post(f"{PATH}/{job_id}/cancel"), 409, "illegal_transition"
    )
    assert "is succeeded" in document["detail"]
