"""A gate over HTTP, on answers that were really given: a loss that is real stops the alias, noise does not.

The oracle is counted by hand: of d questions that only one of two versions answers rightly, and all of them the same
one, chance alone would have it so with probability 2 / 2**d (McNemar's exact test).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_evals
from bitsmith_core.storage import S3Store

from tests.api.conftest import Platform, assert_problem

QUESTIONS = 40
Publish = Callable[..., None]


@pytest.fixture
def publish(platform: Platform, store: S3Store, tmp_path: Path) -> Publish:
    """publish(piqa=3) makes the next version of tiny: it misses the first 3 of 40 questions of piqa."""
    weights = iter("abcdef")

    def next_version(**missed: int) -> None:
        answers = {task: [False] * wrong + [True] * (QUESTIONS - wrong) for task, wrong in missed.items()}
        content = toy_evals.evals({"quantized": answers})
        toy_evals.put(store, content, tmp_path)
        platform.publish("tiny", toy_evals.manifest(content, weights=next(weights)))

    return next_version


def point(platform: Platform, version: int, *, revision: int | None) -> Any:
    seen = {"If-None-Match": "*"} if revision is None else {"If-Match": f'"{revision}"'}
    return platform.client.put("/v1/models/tiny/aliases/prod", json={"version": version}, headers=seen)


def gate(platform: Platform, **settings: Any) -> None:
    answer = platform.client.patch("/v1/models/tiny", json={"gates": {"prod": settings}}, headers={"If-Match": "*"})
    assert answer.status_code == 200, answer.text


def target(platform: Platform) -> int:
    found: int = platform.client.get("/v1/models/tiny").json()["aliases"]["prod"]
    return found


def test_a_significant_loss_is_refused_with_its_numbers_and_the_alias_stays(
    platform: Platform, publish: Publish
) -> None:
    publish(piqa=0)
    publish(piqa=10)
    gate(platform, suite=["piqa"])
    assert point(platform, 1, revision=None).status_code == 200

    document = assert_problem(point(platform, 2, revision=1), 409, "gate_refused")
    (check,) = document["gate"]["checks"]
    assert (check["task"], check["passed"], check["verdict"]) == ("piqa", False, "worse")
    assert check["loss"] == pytest.approx(10 / QUESTIONS)
    assert check["p_adjusted"] == pytest.approx(2 / 2**10)
    assert (document["gate"]["candidate"], document["gate"]["against"]) == ("tiny@2", "tiny@1")
    assert target(platform) == 1
    assert len(platform.client.get("/v1/models/tiny/aliases/prod/history").json()["data"]) == 1


def test_noise_passes_and_its_report_stays_in_the_history(platform: Platform, publish: Publish) -> None:
    publish(piqa=0)
    publish(piqa=3)
    gate(platform, suite=["piqa"])
    point(platform, 1, revision=None)

    assert point(platform, 2, revision=1).status_code == 200
    assert target(platform) == 2
    newest = platform.client.get("/v1/models/tiny/aliases/prod/history").json()["data"][0]
    (check,) = newest["gate"]["checks"]
    assert (newest["to_version"], newest["gate"]["passed"], check["passed"]) == (2, True, True)
    assert check["p_adjusted"] == pytest.approx(2 / 2**3)


def test_a_loss_that_one_task_would_show_may_be_chance_among_several(platform: Platform, publish: Publish) -> None:
    publish(piqa=0, wic=0)
    publish(piqa=6, wic=0)
    point(platform, 1, revision=None)

    gate(platform, suite=["piqa"])
    refused = assert_problem(point(platform, 2, revision=1), 409, "gate_refused")
    assert refused["gate"]["checks"][0]["p_adjusted"] == pytest.approx(2 / 2**6)

    gate(platform, suite=["*"])
    assert point(platform, 2, revision=1).status_code == 200
    checks = platform.client.get("/v1/models/tiny/aliases/prod/history").json()["data"][0]["gate"]["checks"]
    assert {check["task"]: check["p_adjusted"] for check in checks}["piqa"] == pytest.approx(2 * 2 / 2**6)


def test_a_loss_that_people_accept_passes(platform: Platform, publish: Publish) -> None:
    publish(piqa=0)
    publish(piqa=10)
    point(platform, 1, revision=None)
    gate(platform, suite=["piqa"], max_loss=0.2)
    assert_problem(point(platform, 2, revision=1), 409, "gate_refused")
    gate(platform, suite=["piqa"], max_loss=0.25)
    assert point(platform, 2, revision=1).status_code == 200
