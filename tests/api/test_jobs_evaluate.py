"""A job of the method evaluate names a version, and the server decides which one that is."""

from typing import Any

import pytest
import toy_evals
from bitsmith_core import jobs
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.registry import blobs, evals
from fastapi.testclient import TestClient

from tests.api.conftest import Platform, assert_problem

PATH = "/v1/fine_tuning/jobs"


def wanted(platform: Platform, version: str, **changes: Any) -> dict[str, Any]:
    method = {"type": "evaluate", "evaluate": {"version": version}}
    return {"validation_file": platform.upload(filename="validation.jsonl"), "method": method, **changes}


@pytest.mark.parametrize("version", ["tiny-demo@2", "tiny-demo"])
def test_an_evaluation_is_of_one_version_whatever_it_was_called(platform: Platform, version: str) -> None:
    for _ in range(2):
        platform.publish("tiny-demo")
    answer = platform.client.post(PATH, json=wanted(platform, version))
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["model"], job["training_file"], job["status"]) == ("hf:org/tiny", None, "queued")
    assert job["method"]["evaluate"]["version"] == "tiny-demo@2"
    assert job["hyperparameters"] == {"n_epochs": None, "batch_size": None, "learning_rate_multiplier": None}


def test_what_it_finds_is_named_by_the_job_and_no_model_is(platform: Platform) -> None:
    platform.publish("tiny-demo")
    job_id = JobId(platform.client.post(PATH, json=wanted(platform, "tiny-demo@1")).json()["id"])
    lease = platform.claim(job_id)
    manifest = toy_evals.manifest(toy_evals.evals({"quantized": {"piqa": [True]}}))
    with platform.database.transaction() as tx:
        blobs.hold(tx, manifest.files)
        row = evals.publish(tx, project=DEFAULT_PROJECT, version="tiny-demo@1", job_id=job_id, manifest=manifest)
        jobs.finish(tx, lease, result=row.id)
    job = platform.client.get(f"{PATH}/{job_id}").json()
    assert (job["status"], job["fine_tuned_model"], job["eval_id"]) == ("succeeded", None, row.id)
    assert platform.client.get(f"/v1/evals/{row.id}").json()["job_id"] == job_id


def test_a_version_that_is_not_there_is_named(client: TestClient, platform: Platform) -> None:
    document = assert_problem(
        client.post(PATH, json=wanted(platform, "absent@1")), 422, "invalid_spec", "/method/evaluate/version"
    )
    assert "absent@1" in document["detail"]


def test_another_base_than_the_versions_own_is_refused(platform: Platform) -> None:
    platform.publish("tiny-demo")
    request = wanted(platform, "tiny-demo@1", model="hf:org/other")
    assert_problem(platform.client.post(PATH, json=request), 422, "invalid_spec", "/model")
    clone = platform.client.post(PATH, json=wanted(platform, "tiny-demo@1", model="hf:org/tiny"))
    assert clone.status_code == 200


def test_its_files_are_checked_as_those_of_other_jobs_are(platform: Platform) -> None:
    platform.publish("tiny-demo")
    pack = {"task": "piqa", "file": platform.upload()}
    method = {"type": "evaluate", "evaluate": {"version": "tiny-demo@1", "evaluation": {"benchmarks": [pack]}}}
    answer = platform.client.post(PATH, json={"method": method})
    assert_problem(answer, 422, "invalid_spec", "/method/evaluate/evaluation/benchmarks/0/file")


def test_a_dry_run_says_what_it_would_be(platform: Platform) -> None:
    platform.publish("tiny-demo")
    plan = platform.client.post(f"{PATH}?dry_run=true", json=wanted(platform, "tiny-demo")).json()
    assert plan["spec"]["method"]["evaluate"]["version"] == "tiny-demo@1"
    assert plan["errors"] == []
    assert [stage["stage"] for stage in plan["estimate"]["stages"]] == ["evaluating"]
    assert (plan["estimate"]["steps"], plan["estimate"]["training_s"]) == (0, 0.0)


def test_it_may_be_cloned(platform: Platform) -> None:
    platform.publish("tiny-demo")
    job_id = platform.client.post(PATH, json=wanted(platform, "tiny-demo")).json()["id"]
    clone = platform.client.post(f"{PATH}/{job_id}/clone", json={"seed": 5})
    assert clone.status_code == 200, clone.text
    assert (clone.json()["seed"], clone.json()["method"]["evaluate"]["version"]) == (5, "tiny-demo@1")


@pytest.mark.parametrize("name", ["model", "training_file"])
def test_other_methods_still_need_what_they_needed(client: TestClient, platform: Platform, name: str) -> None:
    request = platform.request()
    del request[name]
    assert_problem(client.post(PATH, json=request), 422, "invalid_spec", f"/{name}")
