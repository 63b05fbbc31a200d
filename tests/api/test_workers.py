"""Who works, on what, and who shall stop: of all projects, and told to each only as far as it is theirs."""

from typing import Any

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Database
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import Platform, assert_problem
from tests.api.keyring import as_key, new_key, new_project

PATH = "/v1/workers"


@pytest.fixture(autouse=True)
def two_workers(database: Database) -> None:
    with database.transaction() as tx:
        jobs.workers.report(tx, name="gpu-1", device="cpu", local_models=[])
        jobs.workers.report(
            tx, name="gpu-0", pool="h100", device="H100", devices=2, memory_bytes=80, local_models=["tiny"]
        )


def seen(client: TestClient, name: str = "gpu-0") -> dict[str, Any]:
    answer = client.get(PATH)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return next(worker for worker in found if worker["id"] == name)


def test_a_worker_is_shown_as_it_reported(client: TestClient) -> None:
    worker = seen(client)
    assert worker["last_seen_at"] >= worker["started_at"]
    del worker["last_seen_at"], worker["started_at"]
    assert worker == {
        "id": "gpu-0",
        "object": "worker",
        "status": "idle",
        "is_draining": False,
        "pool": "h100",
        "device": "H100",
        "devices": 2,
        "memory_bytes": 80,
        "local_models": ["tiny"],
        "job_id": None,
    }


def test_workers_are_listed_by_name_in_pages(client: TestClient) -> None:
    first = client.get(PATH, params={"limit": 1}).json()
    rest = client.get(PATH, params={"limit": 1, "after": first["last_id"]}).json()
    assert [worker["id"] for worker in first["data"] + rest["data"]] == ["gpu-0", "gpu-1"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert first["data"][0] == seen(client)


def test_workers_of_one_pool_are_listed_alone(client: TestClient) -> None:
    of = {
        pool: [worker["id"] for worker in client.get(PATH, params={"pool": pool}).json()["data"]]
        for pool in ("h100", "default", "l40s")
    }
    assert of == {"h100": ["gpu-0"], "default": ["gpu-1"], "l40s": []}
    assert_problem(client.get(PATH, params={"pool": "No name"}), 422, "invalid_request", "query pool")


def test_a_worker_is_busy_while_it_holds_a_job(client: TestClient, platform: Platform) -> None:
    job = platform.submit()
    lease = platform.claim(job)
    assert (seen(client)["status"], seen(client)["job_id"]) == ("busy", job)
    assert [worker["job_id"] for worker in client.get(PATH).json()["data"]] == [job, None]
    platform.finish(lease)
    assert (seen(client)["status"], seen(client)["job_id"]) == ("idle", None)


def test_another_projects_job_has_no_name_here(client: TestClient, platform: Platform) -> None:
    platform.claim(platform.submit())
    blue = as_key(new_key(client, role="admin", project=new_project(client, "blue"))["key"])
    worker = client.get(PATH, headers=blue).json()["data"][0]
    assert (worker["status"], worker["job_id"]) == ("busy", None)
    own = as_key(new_key(client, role="viewer")["key"])
    assert client.get(PATH, headers=own).json()["data"][0]["job_id"] is not None


def test_a_worker_that_fell_silent_is_lost_and_still_listed(client: TestClient, database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(text("UPDATE workers SET seen_at = now() - interval '21 seconds' WHERE name = 'gpu-0'"))
    assert [worker["status"] for worker in client.get(PATH).json()["data"]] == ["lost", "idle"]
    assert seen(client)["status"] == "lost"


def test_a_drained_worker_takes_no_job_until_it_is_let_work_again(client: TestClient, platform: Platform) -> None:
    job = platform.submit()
    assert client.post(f"{PATH}/gpu-0/drain").json()["is_draining"] is True
    assert seen(client)["is_draining"] is True
    with platform.database.transaction() as tx:
        assert jobs.workers.idle_counts(tx) == {"default": 1}
    assert client.post(f"{PATH}/gpu-0/undrain").json()["is_draining"] is False
    platform.claim(job)


def test_a_drain_is_in_the_audit_trail(client: TestClient) -> None:
    client.post(f"{PATH}/gpu-0/drain")
    newest = client.get("/v1/audit_events").json()["data"][0]
    assert (newest["action"], newest["target"]) == ("worker.drained", "gpu-0")


def test_only_who_runs_the_installation_drains(client: TestClient) -> None:
    admin = as_key(new_key(client, role="admin")["key"])
    for action in ("drain", "undrain"):
        assert_problem(client.post(f"{PATH}/gpu-0/{action}", headers=admin), 403, "forbidden")
    assert seen(client)["is_draining"] is False


@pytest.mark.parametrize("name", ["nobody", "%00", "a%00b"])
def test_a_worker_that_nobody_heard_of_is_not_there(client: TestClient, name: str) -> None:
    for action in ("drain", "undrain"):
        assert_problem(client.post(f"{PATH}/{name}/{action}"), 404, "not_found")


def test_a_cursor_of_no_list_is_refused(client: TestClient) -> None:
    answer = client.get(PATH, params={"after": "\0"})
    assert_problem(answer, 422, "invalid_request", "query after")
