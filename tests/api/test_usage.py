"""GPU time over the API: one's own, in the buckets that were asked for."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bitsmith_core.db import Database
from bitsmith_core.identity import keys, projects
from bitsmith_core.identity.roles import Role
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import Platform, assert_problem

DAY = 86_400
START = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp())


def ran(platform: Platform, job_id: JobId, *, start: int, seconds: int, gpu_seconds: float) -> None:
    """One attempt at the job, at that time."""
    platform.finish(platform.claim(job_id))
    with platform.database.transaction() as tx:
        tx.execute(
            text(
                "UPDATE attempts SET started_at = to_timestamp(:start), ended_at = to_timestamp(:start + :seconds), "
                "gpu_seconds = :gpu_seconds WHERE job_id = :job_id"
            ),
            {"start": start, "seconds": seconds, "gpu_seconds": gpu_seconds, "job_id": job_id},
        )


def test_days_of_usage_empty_ones_too(platform: Platform) -> None:
    ran(platform, platform.submit(), start=START + DAY - 100, seconds=400, gpu_seconds=800.0)
    answer = platform.client.get("/v1/usage", params={"start": START, "end": START + 3 * DAY})
    assert answer.status_code == 200, answer.text
    assert [(bucket["start"], bucket["end"]) for bucket in answer.json()["data"]] == [
        (START + number * DAY, START + (number + 1) * DAY) for number in range(3)
    ]
    assert [
        [(used["gpu_seconds"], used["attempts"], used["jobs"]) for used in bucket["results"]]
        for bucket in answer.json()["data"]
    ] == [[(200.0, 1, 1)], [(600.0, 1, 1)], []]


def test_usage_is_told_by_model_and_key(platform: Platform, app: FastAPI) -> None:
    ran(platform, platform.submit(model="hf:org/tiny"), start=START, seconds=10, gpu_seconds=10)
    ran(platform, platform.submit(model="hf:org/large"), start=START, seconds=70, gpu_seconds=70)
    with platform.database.transaction() as tx:
        issued = keys.issue(tx, project=DEFAULT_PROJECT, name="n", role=Role.MEMBER, created_by=None)
    someone = Platform(
        client=TestClient(app, headers={"Authorization": f"Bearer {issued.key}"}), database=platform.database
    )
    ran(someone, someone.submit(model="hf:org/tiny"), start=START, seconds=30, gpu_seconds=30)

    query: dict[str, Any] = {"start": START, "end": START + DAY, "group_by": ["model", "key"]}
    (bucket,) = someone.client.get("/v1/usage", params=query).json()["data"]
    assert [(used["model"], used["api_key_id"], used["gpu_seconds"]) for used in bucket["results"]] == [
        ("hf:org/large", "bootstrap", 70.0),
        ("hf:org/tiny", issued.row.id, 30.0),
        ("hf:org/tiny", "bootstrap", 10.0),
    ]
    assert {used["project_id"] for used in bucket["results"]} == {None}


def test_a_project_sees_its_own_and_the_installation_all(platform: Platform, app: FastAPI) -> None:
    with platform.database.transaction() as tx:
        other = projects.create(tx, name="other").id
        key = keys.issue(tx, project=other, name="n", role=Role.ADMIN, created_by=None).key
    theirs = Platform(client=TestClient(app, headers={"Authorization": f"Bearer {key}"}), database=platform.database)
    ran(platform, platform.submit(), start=START, seconds=10, gpu_seconds=10)
    ran(theirs, theirs.submit(), start=START, seconds=20, gpu_seconds=20)

    def seen(client: TestClient, **query: Any) -> list[tuple[str | None, float]]:
        answer = client.get("/v1/usage", params={"start": START, "end": START + DAY, **query})
        (bucket,) = answer.json()["data"]
        return [(used["project_id"], used["gpu_seconds"]) for used in bucket["results"]]

    assert seen(theirs.client) == [(None, 20.0)]
    assert seen(theirs.client, group_by="project") == [(other, 20.0)]
    assert seen(platform.client) == [(None, 10.0)]
    assert seen(platform.client, group_by="project") == [(other, 20.0), (DEFAULT_PROJECT, 10.0)]


def test_without_a_time_it_is_the_last_thirty_days(client: TestClient) -> None:
    buckets = client.get("/v1/usage").json()["data"]
    assert len(buckets) == 31
    assert buckets[0]["start"] % DAY == 0
    assert buckets[-1]["end"] - buckets[-1]["start"] <= DAY


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"start": START, "end": START}, "query start"),
        ({"start": START, "end": START + 2000 * 3600, "bucket": "1h"}, "query bucket"),
        ({"bucket": "1s"}, "query bucket"),
        ({"group_by": "colour"}, "query group_by"),
        ({"start": -1}, "query start"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_by_name(
    client: TestClient, query: dict[str, Any], pointer: str
) -> None:
    assert_problem(client.get("/v1/usage", params=query), 422, "invalid_request", pointer)


def test_a_key_without_the_scope_is_refused(app: FastAPI, client: TestClient, database: Database) -> None:
    with database.transaction() as tx:
        key = keys.issue(
            tx, project=DEFAULT_PROJECT, name="n", role=Role.MEMBER, scopes=["jobs:read"], created_by=None
        ).key
    assert_problem(client.get("/v1/usage", headers={"Authorization": f"Bearer {key}"}), 403, "forbidden")
