"""A list of jobs is narrowed down by what people ask, in the order they ask, page by page in either direction."""

import time

import pytest
from bitsmith_core.ids import JobId, new_job_id
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.api.conftest import Platform, assert_problem

PATH = "/v1/fine_tuning/jobs"


def listed(client: TestClient, query: str = "") -> list[str]:
    answer = client.get(f"{PATH}?{query}")
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["data"]]


def test_jobs_are_found_by_metadata(platform: Platform) -> None:
    blue = platform.submit(metadata={"team": "blue", "run": "1"})
    red = platform.submit(metadata={"team": "red", "run": "1"})
    plain = platform.submit()
    client = platform.client
    assert listed(client, "metadata[team]=blue") == [blue]
    assert listed(client, "metadata[run]=1") == [red, blue]
    assert listed(client, "metadata[run]=1&metadata[team]=red") == [red]
    assert listed(client, "metadata%5Bteam%5D=blue") == [blue]
    assert listed(client, "metadata[team]=") == []
    assert listed(client, "metadata=null") == [plain]


def test_changed_metadata_is_what_counts(platform: Platform) -> None:
    job_id = platform.submit(metadata={"team": "blue"})
    platform.client.patch(f"{PATH}/{job_id}", json={"metadata": {"team": "red"}})
    assert listed(platform.client, "metadata[team]=blue") == []
    assert listed(platform.client, "metadata[team]=red") == [job_id]


def test_jobs_are_found_by_base_model_and_priority(platform: Platform) -> None:
    small = platform.submit(model="hf:org/small", priority=5)
    large = platform.submit(model="hf:org/large")
    assert listed(platform.client, "model=hf:org/small") == [small]
    assert listed(platform.client, "model=hf:org/small&model=hf:org/large") == [large, small]
    assert listed(platform.client, "priority=5") == [small]
    assert listed(platform.client, "priority=0&model=hf:org/small") == []


def test_jobs_are_found_by_time_to_the_second(platform: Platform) -> None:
    old, new = platform.submit(), platform.submit()
    with platform.database.transaction() as tx:
        tx.execute(text("UPDATE jobs SET created_at = to_timestamp(1000000000.9) WHERE id = :id"), {"id": old})
    assert listed(platform.client, "created_at[lte]=1000000000") == [old]
    assert listed(platform.client, "created_at[gte]=1000000001") == [new]
    assert listed(platform.client, "created_at[gte]=1000000000") == [new, old]
    assert listed(platform.client, f"created_at[lte]={int(time.time()) + 1}&created_at[gte]=1000000001") == [new]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_lead_forwards_and_back_without_gap_or_double(platform: Platform, order: str) -> None:
    ids = [platform.submit() for _ in range(5)]
    expected = ids if order == "asc" else ids[::-1]
    first = platform.client.get(f"{PATH}?order={order}&limit=2").json()
    second = platform.client.get(f"{PATH}?order={order}&limit=2&after={first['last_id']}").json()
    third = platform.client.get(f"{PATH}?order={order}&limit=2&after={second['last_id']}").json()
    assert [job["id"] for page in (first, second, third) for job in page["data"]] == expected
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False]
    back = platform.client.get(f"{PATH}?order={order}&limit=2&before={third['first_id']}").json()
    assert (back["data"], back["has_more"]) == (second["data"], True)
    back = platform.client.get(f"{PATH}?order={order}&limit=2&before={second['first_id']}").json()
    assert (back["data"], back["has_more"]) == (first["data"], False)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("metadata=blue", "query metadata"),
        ("metadata[]=blue", "query metadata[]"),
        ("metadata[a]=1&metadata[a]=2", "query metadata[a]"),
        ("metadata[a]=%00", "query metadata[a]"),
        ("model=%00", "query model"),
        ("priority=101", "query priority"),
        ("created_at[gte]=x", "query created_at[gte]"),
        ("created_at[lte]=99999999999999", "query created_at[lte]"),
        ("before=x", "query before"),
        ("order=up", "query order"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(client: TestClient, query: str, place: str) -> None:
    assert_problem(client.get(f"{PATH}?{query}"), 422, "invalid_request", place)


def test_a_cursor_of_an_unknown_job_is_a_moment_in_time(platform: Platform) -> None:
    job_id = platform.submit()
    assert listed(platform.client, f"before={new_job_id()}") == []
    assert listed(platform.client, f"after={new_job_id()}") == [job_id]


def test_waiting_jobs_know_their_place(platform: Platform) -> None:
    first, second, urgent = platform.submit(), platform.submit(), platform.submit(priority=10)

    def queue(job_id: JobId) -> object:
        return platform.client.get(f"{PATH}/{job_id}").json()["queue"]

    nobody = {"obstacle": "no live worker of the pool default, nor of any other"}
    assert queue(urgent) == {"position": 1, "ahead": [], **nobody}
    assert queue(first) == {"position": 2, "ahead": [urgent], **nobody}
    assert queue(second) == {"position": 3, "ahead": [urgent, first], **nobody}
    platform.client.patch(f"{PATH}/{second}", json={"priority": 20})
    assert queue(second) == {"position": 1, "ahead": [], **nobody}
    platform.claim(second)
    assert (queue(second), queue(first)) == (None, {"position": 2, "ahead": [urgent], **nobody})
