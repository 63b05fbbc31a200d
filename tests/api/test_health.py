"""Liveness asks nobody, readiness names who is down, metrics tell Postgres' truth."""

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.storage import S3Store
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import NO_STORE, NOWHERE, Platform, application, assert_problem


def samples(client: TestClient) -> dict[str, float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_process_is_alive_whatever_else_is_down() -> None:
    client = TestClient(application(Database(NOWHERE), S3Store(NO_STORE)))
    assert client.get("/livez").json() == {"status": "ok"}


def test_it_is_ready_when_both_servers_answer(client: TestClient) -> None:
    assert client.get("/readyz").json() == {"status": "ok", "checks": {"postgres": "ok", "object_store": "ok"}}


def test_it_is_not_ready_without_the_store(database: Database) -> None:
    answer = TestClient(application(database, S3Store(NO_STORE))).get("/readyz")
    document = assert_problem(answer, 503, "not_ready")
    assert document["detail"] == "not answering: object_store"
    assert document["retryable"] is True
    assert "retry-after" in answer.headers


def test_it_is_not_ready_without_postgres(store: S3Store) -> None:
    document = assert_problem(TestClient(application(Database(NOWHERE), store)).get("/readyz"), 503, "not_ready")
    assert document["detail"] == "not answering: postgres"


def test_metrics_are_postgres_truth(platform: Platform) -> None:
    platform.submit()
    platform.claim(platform.submit())
    platform.publish("tiny-demo")
    with platform.database.transaction() as tx:
        jobs.workers.report(tx, name="gpu-0", device="cpu", local_models=[])
        jobs.workers.report(tx, name="gone", device="cpu", local_models=[])
        tx.execute(text("UPDATE workers SET seen_at = now() - interval '1 h' WHERE name = 'gone'"))
        tx.execute(text("UPDATE jobs SET created_at = now() - interval '90 s' WHERE status = 'queued'"))
    found = samples(platform.client)
    by_status = {status: found[f'bitsmith_jobs{{status="{status}"}}'] for status in jobs.JobStatus}
    assert by_status == {"queued": 1, "running": 1, "paused": 0, "succeeded": 1, "failed": 0, "cancelled": 0}
    assert 90 <= found["bitsmith_queue_oldest_wait_seconds"] < 150
    assert found["bitsmith_workers_live"] == 1
    assert found["bitsmith_versions_published"] == 1
    assert found["bitsmith_database_up"] == 1


def test_a_pool_that_jobs_wait_for_is_shown_with_its_workers_or_none(platform: Platform) -> None:
    in_pool = {"type": "quantize", "quantize": {"resources": {"pool": "h100"}}}
    platform.submit(method=in_pool)
    platform.submit(method=in_pool)
    with platform.database.transaction() as tx:
        jobs.workers.report(tx, name="cpu-0", device="cpu", local_models=[])
    found = {name: value for name, value in samples(platform.client).items() if name.startswith("bitsmith_pool_")}
    assert found == {
        'bitsmith_pool_workers_live{pool="default"}': 1,
        'bitsmith_pool_workers_live{pool="h100"}': 0,
        'bitsmith_pool_jobs_queued{pool="default"}': 0,
        'bitsmith_pool_jobs_queued{pool="h100"}': 2,
    }


def test_metrics_survive_without_postgres(store: S3Store) -> None:
    client = TestClient(application(Database(NOWHERE), store))
    client.get("/livez")
    found = samples(client)
    assert found["bitsmith_database_up"] == 0
    assert not [name for name in found if name.startswith("bitsmith_jobs")]
    assert found['bitsmith_http_requests_total{method="GET",route="/livez",status="200"}'] == 1


def test_requests_are_counted_by_template_so_that_ids_make_no_series(client: TestClient) -> None:
    for name in ("a", "b"):
        client.get(f"/v1/models/{name}")
    client.get("/nowhere/1")
    client.request("BREW", "/livez")
    found = samples(client)
    assert found['bitsmith_http_requests_total{method="GET",route="/v1/models/{name}",status="404"}'] == 2
    assert found['bitsmith_http_request_seconds_count{method="GET",route="/v1/models/{name}"}'] == 2
    assert found['bitsmith_http_requests_total{method="GET",route="unmatched",status="404"}'] == 1
    assert found['bitsmith_http_requests_total{method="OTHER",route="/livez",status="405"}'] == 1


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health_is_not_cached_behind_a_key(client: TestClient, path: str) -> None:
    assert client.get(path, headers={"Authorization": "Bearer wrong-key"}).status_code == 200
