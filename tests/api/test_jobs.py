"""A job is queued once, answered resolved, refused with every wrong place named, and cancelled only while it can be."""

import time
from typing import Any

import pytest
from bitsmith_core import jobs
from bitsmith_core.bundle import TrainingFacts
from bitsmith_core.ids import JobId, new_file_id
from bitsmith_core.wire import Failed, FailureClass, Progress, Stage, StageStarted
from fastapi.testclient import TestClient

from tests.api.conftest import EXAMPLE, MANIFEST, Platform, assert_problem

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
        "budget_bytes": None,
        "calibration_samples": 16,
        "clip_search": True,
        "widths": [2, 3, 4],
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
    nobody = "no live worker of the pool default, nor of any other"
    assert job["queue"] == {"position": 1, "ahead": [], "obstacle": nobody}
    assert (job["priority"], job["pool"], job["trained_tokens"]) == (0, "default", None)
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


def test_a_job_without_a_validation_file_is_taken_and_says_so(platform: Platform) -> None:
    file_id = platform.upload(EXAMPLE * 16)
    answer = platform.client.post(PATH, json={"model": "hf:org/tiny", "training_file": file_id})
    assert answer.status_code == 200, answer.text
    assert answer.json()["validation_file"] is None
    job = platform.client.get(f"{PATH}/{answer.json()['id']}").json()
    assert (job["training_file"], job["validation_file"]) == (file_id, None)


def test_a_training_file_too_small_to_hold_examples_out_is_named(platform: Platform) -> None:
    request = {"model": "hf:org/tiny", "training_file": platform.upload(EXAMPLE * 15)}
    document = assert_problem(platform.client.post(PATH, json=request), 422, "invalid_spec", "/training_file")
    assert document["errors"][0]["code"] == "too_few_examples"
    assert "needs 16 in it; there are 15" in document["errors"][0]["detail"]
    told = platform.client.post(PATH, params={"dry_run": "true"}, json=request).json()
    assert [error["code"] for error in told["errors"]] == ["too_few_examples"]
    assert count(platform.client) == 0


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


@pytest.mark.parametrize(
    "action",
    ["", "/cancel", "/pause", "/resume", "/clone", "/events", "/metrics", "/logs", "/checkpoints", "/attempts"],
)
@pytest.mark.parametrize("unknown", ["ftjob-0kp1p4n3vtsu5qc1q0o8g0a4lk", "ftjob-x", "%00"])
def test_an_unknown_job_answers_404(client: TestClient, unknown: str, action: str) -> None:
    method = "POST" if action in ("/cancel", "/pause", "/resume", "/clone") else "GET"
    assert_problem(client.request(method, f"{PATH}/{unknown}{action}"), 404, "not_found")


def test_a_running_job_shows_how_far_it_is(platform: Platform) -> None:
    job_id = platform.submit()
    lease = platform.claim(job_id)
    with platform.database.transaction() as tx:
        jobs.record(tx, lease, StageStarted(stage=Stage.TRAINING))
        jobs.record(tx, lease, Progress(stage=Stage.TRAINING, done=3, total=12, eta_s=60.0, metrics={"loss": 2.0}))
    job = platform.client.get(f"{PATH}/{job_id}").json()
    assert (job["status"], job["stage"], job["attempts"], job["queue"]) == ("running", "training", 1, None)
    assert job["progress"] == {"stage": "training", "done": 3, "total": 12, "fraction": 0.25, "eta_s": 60.0}
    assert isinstance(job["started_at"], int)
    assert 55 < job["estimated_finish"] - time.time() < 65


def fail(platform: Platform, job_id: JobId, failure: Failed, end: jobs.EngineEnd) -> None:
    lease = platform.claim(job_id)
    with platform.database.transaction() as tx:
        jobs.fail(tx, lease, failure, end=end)


def test_a_failed_job_says_why_and_what_was_seen(platform: Platform) -> None:
    job_id = platform.submit()
    seen = jobs.EngineEnd(exit_code=1, evidence={"line": 3})
    fail(platform, job_id, Failed(failure=FailureClass.DATA, code="bad_data", message="Line 3 is empty."), seen)
    job = platform.client.get(f"{PATH}/{job_id}").json()
    assert job["status"] == "failed"
    assert job["status_reason"]["evidence"].items() >= {"line": 3, "exit_code": 1}.items()
    assert {**job["status_reason"], "evidence": {}} == {
        "code": "bad_data", "message": "Line 3 is empty.", "retryable": False, "evidence": {},
    }  # fmt: skip
    assert job["error"] == {"code": "bad_data", "message": "Line 3 is empty.", "param": None}


def test_a_job_that_waits_again_says_why_its_last_attempt_ended(platform: Platform) -> None:
    job_id = platform.submit()
    killed = jobs.EngineEnd(exit_code=-9)
    fail(platform, job_id, Failed(failure=FailureClass.INFRA, code="engine_died", message="Killed."), killed)
    job = platform.client.get(f"{PATH}/{job_id}").json()
    assert (job["status"], job["error"], job["attempts"]) == ("queued", None, 1)
    assert (job["status_reason"]["code"], job["status_reason"]["retryable"]) == ("engine_died", True)
    assert job["status_reason"]["evidence"]["exit_code"] == -9


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


def test_a_succeeded_job_tells_how_many_tokens_it_learned_from(platform: Platform) -> None:
    facts = TrainingFacts(
        optimizer="DiodeMix", mode="residual", steps=2, examples=4, tokens=77, first_loss=2.0, last_loss=1.0, flips=3,
        flip_rate=0.03, flip_budget=0.05,
    )  # fmt: skip
    job_id = platform.publish("tiny-demo", MANIFEST.model_copy(update={"training": facts}))
    assert platform.client.get(f"{PATH}/{job_id}").json()["trained_tokens"] == 77


def test_a_waiting_job_is_paused_and_resumed_at_once(platform: Platform) -> None:
    job_id = platform.submit()
    for _ in range(2):
        paused = platform.client.post(f"{PATH}/{job_id}/pause").json()
        assert (paused["status"], paused["desired_state"], paused["queue"]) == ("paused", "pause", None)
    for _ in range(2):
        resumed = platform.client.post(f"{PATH}/{job_id}/resume").json()
        assert (resumed["status"], resumed["desired_state"]) == ("queued", "run")


def test_a_running_job_is_asked_to_pause_and_may_change_its_mind(platform: Platform) -> None:
    job_id = platform.submit()
    platform.claim(job_id)
    asked = platform.client.post(f"{PATH}/{job_id}/pause").json()
    assert (asked["status"], asked["desired_state"]) == ("running", "pause")
    assert platform.client.post(f"{PATH}/{job_id}/resume").json()["desired_state"] == "run"


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_what_is_over_is_neither_paused_nor_resumed(platform: Platform, action: str) -> None:
    job_id = platform.submit()
    platform.finish(platform.claim(job_id))
    assert_problem(platform.client.post(f"{PATH}/{job_id}/{action}"), 409, "illegal_transition")


def test_priority_and_metadata_change_and_what_is_left_out_stays(platform: Platform) -> None:
    job_id = platform.submit(metadata={"team": "blue", "run": "1"}, priority=3)
    changed = platform.client.patch(f"{PATH}/{job_id}", json={"priority": -5}).json()
    assert (changed["priority"], changed["metadata"]) == (-5, {"team": "blue", "run": "1"})
    changed = platform.client.patch(f"{PATH}/{job_id}", json={"metadata": {"team": "red"}}).json()
    assert (changed["priority"], changed["metadata"]) == (-5, {"team": "red"})
    assert platform.client.get(f"{PATH}/{job_id}").json() == changed


def test_nothing_else_changes(platform: Platform) -> None:
    job_id = platform.submit()
    answer = platform.client.patch(f"{PATH}/{job_id}", json={"seed": 7, "priority": 101})
    assert_problem(answer, 422, "invalid_request", "/priority", "/seed")


def test_nobody_overwrites_what_they_have_not_seen(platform: Platform) -> None:
    job_id = platform.submit()
    seen = platform.client.get(f"{PATH}/{job_id}").headers["etag"]
    mine = platform.client.patch(f"{PATH}/{job_id}", json={"priority": 1}, headers={"If-Match": seen})
    theirs = platform.client.patch(f"{PATH}/{job_id}", json={"priority": 2}, headers={"If-Match": seen})
    assert_problem(theirs, 412, "precondition_failed")
    again = {"If-Match": mine.headers["etag"]}
    assert platform.client.patch(f"{PATH}/{job_id}", json={"priority": 2}, headers=again).json()["priority"] == 2


def test_progress_does_not_spoil_an_etag(platform: Platform) -> None:
    job_id = platform.submit()
    seen = platform.client.get(f"{PATH}/{job_id}").headers["etag"]
    lease = platform.claim(job_id)
    platform.note(lease, "a step")
    assert platform.client.get(f"{PATH}/{job_id}").headers["etag"] == seen


@pytest.mark.parametrize("header", ["3", 'W/"3"', '"x"', '"1", "2"'])
def test_an_etag_that_is_none_of_ours_is_refused(platform: Platform, header: str) -> None:
    answer = platform.client.patch(f"{PATH}/{platform.submit()}", json={}, headers={"If-Match": header})
    assert_problem(answer, 422, "invalid_request", "header If-Match")


def test_a_clone_asks_for_the_same_but_for_what_is_different(platform: Platform) -> None:
    source_id = platform.submit(
        priority=2,
        metadata={"team": "blue"},
        method={"type": "qsft", "qsft": {"quantization": {"scheme": "uniform", "bits": 3}, "training": {"epochs": 5}}},
    )
    source = platform.client.get(f"{PATH}/{source_id}").json()
    clone = platform.client.post(
        f"{PATH}/{source_id}/clone", json={"seed": 1, "method": {"qsft": {"training": {"epochs": 2}}}}
    ).json()
    assert clone["id"] != source_id
    assert (clone["seed"], clone["method"]["qsft"]["training"]["epochs"]) == (1, 2)
    assert clone["method"]["qsft"]["quantization"] == source["method"]["qsft"]["quantization"]
    same = ("model", "training_file", "validation_file", "metadata", "priority", "suffix")
    assert {name: clone[name] for name in same} == {name: source[name] for name in same}


def test_a_clone_without_a_body_is_the_same_again(platform: Platform) -> None:
    source_id = platform.submit(seed=4)
    clone = platform.client.post(f"{PATH}/{source_id}/clone").json()
    assert clone["seed"] == 4
    assert clone["status"] == "queued"


def test_a_clone_with_another_method_takes_none_of_the_old_settings(platform: Platform) -> None:
    clone = platform.client.post(f"{PATH}/{platform.submit()}/clone", json={"method": {"type": "lora"}}).json()
    assert clone["method"]["type"] == "lora"


def test_a_clone_is_checked_as_a_new_request_is(platform: Platform) -> None:
    answer = platform.client.post(f"{PATH}/{platform.submit()}/clone", json={"seed": -1})
    assert_problem(answer, 422, "invalid_spec", "/seed")
    answer = platform.client.post(f"{PATH}/{platform.submit()}/clone", json=[1])
    assert_problem(answer, 422, "invalid_request", "")
