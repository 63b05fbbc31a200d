"""Verdicts go in, ratings come out, and whoever looks sees how much the judge minded the order."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.conftest import assert_problem

PATH = "/v1/judgements"


def request(**changes: Any) -> dict[str, Any]:
    """tiny@2 wins two of three prompts in either order; on the last the judge likes what it sees first."""
    shown = [(0, 1, "first"), (1, 0, "second"), (0, 1, "first"), (1, 0, "second"), (0, 1, "first"), (1, 0, "first")]
    verdicts = [
        {"prompt": place // 2, "first": first, "second": second, "winner": winner}
        for place, (first, second, winner) in enumerate(shown)
    ]
    return {
        "title": "support questions", "judge": "some-judge", "prompts_sha256": "a" * 64, "template_sha256": "b" * 64,
        "contestants": ["tiny@2", "tiny@1"], "verdicts": verdicts, **changes,
    }  # fmt: skip


def test_a_judgement_is_rated_at_once_and_kept(client: TestClient) -> None:
    answer = client.post(PATH, json=request())
    assert answer.status_code == 200, answer.text
    made = answer.json()
    best, other = made["ratings"]
    assert (best["contestant"], best["wins"], best["losses"], best["ties"]) == ("tiny@2", 5, 1, 0)
    assert best["rating"] > 1000 > other["rating"]
    assert best["low"] <= best["rating"] <= best["high"]
    assert made["position_bias"] == {
        "first_wins": 4, "second_wins": 2, "ties": 0, "first_share": 4 / 6, "both_orders": 3, "agreeing": 2,
    }  # fmt: skip
    assert client.get(f"{PATH}/{made['id']}").json() == made
    assert made["verdicts"] == request()["verdicts"]


def test_judgements_are_listed_newest_first_without_their_verdicts(client: TestClient) -> None:
    ids = [client.post(PATH, json=request(title=title)).json()["id"] for title in ("one", "two", "three")]
    first = client.get(PATH, params={"limit": 2}).json()
    rest = client.get(PATH, params={"limit": 2, "after": first["last_id"]}).json()
    assert [row["id"] for row in first["data"] + rest["data"]] == ids[::-1]
    assert (first["data"][0]["title"], first["data"][0]["verdict_count"]) == ("three", 6)
    assert "verdicts" not in first["data"][0]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"contestants": ["tiny@1"]}, "/contestants"),
        ({"contestants": ["tiny@1", "tiny@1"]}, "/contestants"),
        ({"verdicts": []}, "/verdicts"),
        ({"verdicts": [{"prompt": 0, "first": 0, "second": 2, "winner": "tie"}]}, ""),
        ({"verdicts": [{"prompt": 0, "first": 0, "second": 0, "winner": "tie"}]}, "/verdicts/0"),
        ({"verdicts": [{"prompt": 0, "first": 0, "second": 1, "winner": "both"}]}, "/verdicts/0/winner"),
        ({"prompts_sha256": "short"}, "/prompts_sha256"),
        ({"title": "\0"}, "/title"),
    ],
)
def test_what_cannot_be_rated_is_refused(client: TestClient, changes: dict[str, Any], pointer: str) -> None:
    assert_problem(client.post(PATH, json=request(**changes)), 422, "invalid_request", pointer)


@pytest.mark.parametrize("path", ["judge-absent", "judge-" + "0" * 26])
def test_an_unknown_judgement_answers_404(client: TestClient, path: str) -> None:
    assert_problem(client.get(f"{PATH}/{path}"), 404, "not_found")


def test_a_repeated_request_makes_one_judgement(client: TestClient) -> None:
    key = {"Idempotency-Key": "judged-once"}
    ids = {client.post(PATH, json=request(), headers=key).json()["id"] for _ in range(2)}
    assert len(ids) == 1
    assert len(client.get(PATH).json()["data"]) == 1
