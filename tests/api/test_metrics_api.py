"""Curves come in columns, by attempt, and lose points but no spike."""

from typing import Any

import pytest
from bitsmith_core import jobs
from bitsmith_core.wire import Failed, FailureClass, Metrics, Stage

from tests.api.conftest import Platform, assert_problem


def measured(lease: jobs.Lease, platform: Platform, steps: list[int], **columns: list[float | None]) -> None:
    with platform.database.transaction() as tx:
        jobs.record(tx, lease, Metrics(stage=Stage.TRAINING, steps=steps, columns=columns))


def curves(platform: Platform, job_id: str, query: str = "") -> list[dict[str, Any]]:
    answer = platform.client.get(f"/v1/fine_tuning/jobs/{job_id}/metrics?{query}")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["object"], answer.json()["job_id"]) == ("fine_tuning.job.metrics", job_id)
    series: list[dict[str, Any]] = answer.json()["series"]
    return series


def test_what_was_measured_comes_back_in_columns(platform: Platform) -> None:
    lease = platform.claim(platform.submit())
    measured(lease, platform, [1, 2], loss=[2.0, 1.5], flips=[0.0, 7.0])
    measured(lease, platform, [3], loss=[1.25], held_out_loss=[1.75])
    found = {one["name"]: one for one in curves(platform, lease.job_id)}
    assert found["loss"] == {
        "attempt": 1, "stage": "training", "name": "loss", "steps": [1, 2, 3], "values": [2.0, 1.5, 1.25],
        "total_points": 3,
    }  # fmt: skip
    assert (found["flips"]["steps"], found["held_out_loss"]["steps"]) == ([1, 2], [3])
    assert [one["name"] for one in curves(platform, lease.job_id, "name=loss")] == ["loss"]
    assert curves(platform, lease.job_id, "name=absent") == []
    assert curves(platform, lease.job_id, "stage=evaluating") == []


def test_a_long_curve_is_thinned_out_and_keeps_its_spikes(platform: Platform) -> None:
    lease = platform.claim(platform.submit())
    for start in range(1, 1001, 100):
        steps = list(range(start, start + 100))
        measured(lease, platform, steps, loss=[99.0 if step == 567 else 1 + 1 / step for step in steps])
    (loss,) = curves(platform, lease.job_id, "max_points=20")
    assert len(loss["steps"]) <= 20
    assert loss["total_points"] == 1000
    assert (loss["steps"][0], loss["steps"][-1]) == (1, 1000)
    assert dict(zip(loss["steps"], loss["values"], strict=True))[567] == 99.0
    assert loss["steps"] == sorted(set(loss["steps"]))


def test_steps_that_were_repeated_after_a_return_count_once(platform: Platform) -> None:
    lease = platform.claim(platform.submit())
    measured(lease, platform, [1, 2, 3, 4], loss=[4.0, 3.0, 9.0, 9.0])
    measured(lease, platform, [3, 4], loss=[2.0, 1.0])
    (loss,) = curves(platform, lease.job_id)
    assert (loss["steps"], loss["values"]) == ([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0])


def test_attempts_have_curves_of_their_own(platform: Platform) -> None:
    lease = platform.claim(platform.submit())
    measured(lease, platform, [1, 2], loss=[2.0, 1.5])
    with platform.database.transaction() as tx:
        jobs.fail(tx, lease, Failed(failure=FailureClass.YIELD, code="worker_stopped", message="Going."))
    measured(platform.claim(lease.job_id), platform, [2, 3], loss=[1.5, 1.2])
    assert [(one["attempt"], one["steps"]) for one in curves(platform, lease.job_id)] == [(1, [1, 2]), (2, [2, 3])]
    assert [one["attempt"] for one in curves(platform, lease.job_id, "attempt=2")] == [2]


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("max_points=3", "query max_points"),
        ("max_points=10001", "query max_points"),
        ("attempt=0", "query attempt"),
        ("stage=dreaming", "query stage"),
        ("name=%00", "query name"),
        ("&".join(f"name=n{number}" for number in range(33)), "query name"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(platform: Platform, query: str, place: str) -> None:
    answer = platform.client.get(f"/v1/fine_tuning/jobs/{platform.submit()}/metrics?{query}")
    assert_problem(answer, 422, "invalid_request", place)
