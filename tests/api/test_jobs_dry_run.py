"""A dry run tells what a request would become, and writes nothing."""

from typing import Any

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.ids import new_file_id

from tests.api.conftest import EXAMPLE, MANIFEST, Platform, assert_problem

PATH = "/v1/fine_tuning/jobs"


def dry(platform: Platform, request: dict[str, Any]) -> dict[str, Any]:
    answer = platform.client.post(PATH, params={"dry_run": "true"}, json=request)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["object"] == "fine_tuning.job.dry_run"
    assert platform.client.get(PATH).json()["data"] == []
    return found


def test_its_spec_is_what_a_real_request_would_be(platform: Platform) -> None:
    request = platform.request()
    found = dry(platform, request)
    assert found["spec"].items() >= request.items()
    assert found["spec"]["method"]["qsft"]["training"]["epochs"] == 1
    assert found["errors"] == []
    real = platform.client.post(PATH, json=found["spec"]).json()
    assert real["method"] == found["spec"]["method"]


def test_it_decides_every_auto_from_the_training_file(platform: Platform) -> None:
    many = platform.upload(EXAMPLE * 50, filename="fifty.jsonl")
    request = platform.request(training_file=many, method={"type": "supervised"})
    training = dry(platform, request)["spec"]["method"]["qsft"]["training"]
    assert (training["epochs"], training["batch_size"]) == (3, 2)  # 150 examples are read, 25 steps an epoch


def test_it_names_what_a_real_request_would_be_refused_for(platform: Platform) -> None:
    found = dry(platform, platform.request(training_file=new_file_id()))
    assert [(error["pointer"], error["code"]) for error in found["errors"]] == [("/training_file", "unknown_file")]


def test_what_cannot_be_read_is_refused_at_once(platform: Platform) -> None:
    answer = platform.client.post(PATH, params={"dry_run": "true"}, json=platform.request(seed=-1))
    assert_problem(answer, 422, "invalid_spec", "/seed")


def test_its_parts_add_up_and_the_peak_is_the_largest_stage(platform: Platform) -> None:
    estimate = dry(platform, platform.request(model="hf:org/name-1.5B-Instruct"))["estimate"]
    assert estimate["confidence"] == "low"
    assert [stage["stage"] for stage in estimate["stages"]] == ["quantizing", "training", "evaluating"]
    for stage in estimate["stages"]:
        assert sum(part["bytes"] for part in stage["parts"]) == stage["bytes"]
    assert estimate["peak_bytes"] == max(stage["bytes"] for stage in estimate["stages"])
    codes = {part["name"]: part["bytes"] for part in estimate["stages"][1]["parts"]}["codes"]
    assert codes == 1_500_000_000  # one byte for each weight that the name promises


def test_a_base_of_unknown_size_is_not_guessed(platform: Platform) -> None:
    found = dry(platform, platform.request(model="hf:org/name"))
    assert found["estimate"] is None
    assert any("hf:org/name" in warning for warning in found["warnings"])


def test_an_earlier_version_makes_the_shape_exact(platform: Platform) -> None:
    assert MANIFEST.quantization is not None
    platform.publish("tiny-qsft")
    request = platform.request()
    found = platform.client.post(PATH, params={"dry_run": "true"}, json=request).json()["estimate"]
    codes = {part["name"]: part["bytes"] for part in found["stages"][1]["parts"]}["codes"]
    assert codes == MANIFEST.quantization.quantized_weights


def in_pool(name: str) -> dict[str, Any]:
    return {"type": "quantize", "quantize": {"resources": {"pool": name}}}


def test_it_warns_of_a_pool_that_has_no_live_worker_and_refuses_nothing(platform: Platform, database: Database) -> None:
    request = platform.request(method=in_pool("h100"))
    assert "the job would wait: no live worker of the pool h100, nor of any other" in dry(platform, request)["warnings"]
    with database.transaction() as tx:
        for name in ("l40s", "default"):
            jobs.workers.report(tx, name=name, pool=name, device="cpu", local_models=[])
    found = dry(platform, request)
    assert "the job would wait: no live worker of the pool h100; there are pools: default, l40s" in found["warnings"]
    assert found["errors"] == []
    assert not any("would wait" in warning for warning in dry(platform, platform.request())["warnings"])


def test_it_looks_at_the_memory_of_the_pools_own_workers(platform: Platform, database: Database) -> None:
    with database.transaction() as tx:
        for pool, memory in (("l40s", 48 * 10**9), ("h100", 80 * 10**9)):
            jobs.workers.report(tx, name=pool, pool=pool, device="NVIDIA", local_models=[], memory_bytes=memory)
    found = dry(platform, platform.request(model="hf:org/name-3B", method=in_pool("l40s")))
    assert found["estimate"]["worker_memory_bytes"] == 48 * 10**9


@pytest.mark.parametrize(("memory_bytes", "fits"), [(10**12, True), (10**9, False)])
def test_it_says_whether_the_largest_worker_can_hold_it(
    platform: Platform, database: Database, memory_bytes: int, fits: bool
) -> None:
    with database.transaction() as tx:
        for name, memory in (("small", 10**8), ("large", memory_bytes)):
            jobs.workers.report(tx, name=name, device="cpu", local_models=[], memory_bytes=memory)
    found = dry(platform, platform.request(model="hf:org/name-3B"))
    assert (found["estimate"]["fits"], found["estimate"]["worker_memory_bytes"]) == (fits, memory_bytes)
    assert any("GB" in warning for warning in found["warnings"]) is not fits
