"""Old versions go by themselves only where that was asked for, and never one that somebody has asked for."""

from datetime import timedelta

import pytest
from bitsmith_core import jobs, registry
from bitsmith_core.db import Tx
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.registry import retention
from bitsmith_core.spec import JobSpec
from sqlalchemy import text

from tests.core.test_registry import manifest


@pytest.fixture
def five(tx: Tx, spec: JobSpec) -> None:
    """tiny@1 to tiny@5, and other@1."""
    registry.blobs.hold(tx, manifest().files)
    for name in [*["tiny"] * 5, "other"]:
        lease = jobs.claim(tx, jobs.submit(tx, spec, project=DEFAULT_PROJECT).id, worker="w1", ttl=timedelta(minutes=1))
        assert lease is not None
        registry.publish(tx, project=DEFAULT_PROJECT, name=name, job_id=lease.job_id, manifest=manifest())
        jobs.finish(tx, lease, result=name)


def names(tx: Tx, keep: int) -> list[str]:
    return [version.name for version in retention.old(tx, keep=keep)]


@pytest.mark.usefixtures("five")
def test_the_newest_of_each_model_stay(tx: Tx) -> None:
    assert names(tx, 2) == ["tiny@1", "tiny@2", "tiny@3"]
    assert names(tx, 5) == []
    assert all(retention.forget(tx, version, keep=2) for version in retention.old(tx, keep=2))
    assert names(tx, 2) == []
    left = tx.execute(text("SELECT name, number, is_newest FROM versions JOIN models ON models.id = model_id"))
    assert sorted(tuple(row) for row in left) == [("other", 1, True), ("tiny", 4, False), ("tiny", 5, True)]


ASKED: dict[str, str] = {
    "an alias points at it": "INSERT INTO aliases (model_id, name, number) SELECT model_id, 'prod', 2 FROM v",
    "a gate judged it when an alias came": """
        INSERT INTO alias_moves (model_id, alias, to_number, gate) SELECT model_id, 'prod', 2, '{}' FROM v""",
    "a gate compared with it when an alias left": """
        INSERT INTO alias_moves (model_id, alias, from_number, to_number, gate)
        SELECT model_id, 'prod', 2, 5, '{}' FROM v""",
    "a job of its own evaluated it": """
        INSERT INTO evals (id, version_id, job_id, engine, environment)
        SELECT 'eval-x', v.id, jobs.id, '', '{}' FROM v, jobs WHERE jobs.id = :waiting""",
    "a job is to evaluate it": """
        UPDATE jobs SET status = 'queued', finished_at = NULL,
               spec = '{"method": {"type": "evaluate", "evaluate": {"version": "tiny@2"}}}' WHERE id = :waiting""",
    "a judgement compared it": """
        INSERT INTO judgements (id, project_id, title, judge, prompts_sha256, template_sha256, contestants, verdicts)
        VALUES ('judgement-x', 'proj-default', '', '', '', '', '["tiny@2", "other@1"]', '[]')""",
}


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("reason", ASKED)
def test_a_version_that_somebody_asked_for_stays(tx: Tx, spec: JobSpec, reason: str) -> None:
    waiting = jobs.submit(tx, spec, project=DEFAULT_PROJECT).id
    before = retention.old(tx, keep=2)
    view = "WITH v AS (SELECT * FROM versions WHERE number = 2) "
    values = {"waiting": waiting} if ":waiting" in ASKED[reason] else {}
    tx.execute(text((view if "FROM v" in ASKED[reason] else "") + ASKED[reason]), values)
    assert names(tx, 2) == ["tiny@1", "tiny@3"]
    assert [retention.forget(tx, version, keep=2) for version in before] == [True, False, True]


@pytest.mark.usefixtures("five")
def test_an_alias_that_moved_on_without_a_gate_keeps_nothing(tx: Tx) -> None:
    tx.execute(
        text(
            "INSERT INTO alias_moves (model_id, alias, to_number)"
            " SELECT model_id, 'prod', 2 FROM versions WHERE number = 2"
        )
    )
    assert names(tx, 2) == ["tiny@1", "tiny@2", "tiny@3"]
