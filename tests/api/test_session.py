"""The web UI's login: a key becomes a cookie that says who, holds as long as the key does, and serves no other site."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie

import pytest
from bitsmith_api import sessions
from bitsmith_core.db import Database
from bitsmith_core.errors import Unauthorized
from bitsmith_core.identity.roles import SCOPES, Role
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from tests.api.conftest import EXAMPLE, KEY, assert_problem
from tests.api.keyring import BOOTSTRAP, in_project, new_key, new_project

OWN_PAGE = {"X-Bitsmith-CSRF": "1", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def browser(app: FastAPI) -> Iterator[TestClient]:
    """Keeps cookies, sends no key."""
    with TestClient(app) as browser:
        yield browser


def sign_in(browser: TestClient, key: str) -> dict[str, object]:
    answer = browser.post("/v1/session", json={"key": key}, headers=OWN_PAGE)
    assert answer.status_code == 200, answer.text
    info: dict[str, object] = answer.json()
    return info


def test_a_session_is_who_its_key_is(browser: TestClient) -> None:
    made = new_key(browser, name="of a viewer", role="viewer")
    assert browser.get("/v1/session").status_code == 401
    told = sign_in(browser, made["key"])
    assert (told["key_id"], told["key_name"], told["role"]) == (made["id"], "of a viewer", "viewer")
    assert told["scopes"] == sorted(SCOPES[Role.VIEWER])
    assert browser.get("/v1/session").json() == told
    assert browser.get("/v1/files").status_code == 200
    assert_problem(browser.get("/v1/api_keys"), 403, "forbidden")


def test_the_cookie_is_for_this_site_and_no_script(browser: TestClient) -> None:
    key = new_key(browser)["key"]
    answer = browser.post("/v1/session", json={"key": key}, headers=OWN_PAGE)
    (cookie,) = SimpleCookie(answer.headers["set-cookie"]).values()
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "strict", "/v1")
    assert not cookie["secure"], "over plain HTTP a browser would throw it away"
    assert int(cookie["max-age"]) == 12 * 3600
    assert key not in answer.headers["set-cookie"]
    assert key.rpartition("_")[2] not in answer.headers["set-cookie"]
    behind_tls = browser.post("/v1/session", json={"key": key}, headers=OWN_PAGE | {"X-Forwarded-Proto": "https"})
    assert "Secure" in behind_tls.headers["set-cookie"]


def test_a_key_that_nobody_has_makes_no_session(browser: TestClient) -> None:
    for key in ("wrong-key", f"{KEY}x", "bsk_" + "0" * 26 + "_" + "0" * 64):
        answer = browser.post("/v1/session", json={"key": key}, headers=OWN_PAGE)
        assert_problem(answer, 401, "unauthorized")
        assert "set-cookie" not in answer.headers
        assert key not in answer.text


def test_a_revoked_key_ends_its_sessions(browser: TestClient) -> None:
    made = new_key(browser)
    sign_in(browser, made["key"])
    assert browser.get("/v1/files").status_code == 200
    assert browser.delete(f"/v1/api_keys/{made['id']}", headers=BOOTSTRAP).status_code == 200
    assert "revoked" in assert_problem(browser.get("/v1/files"), 401, "unauthorized")["detail"]


def test_an_expired_key_ends_its_sessions(browser: TestClient, database: Database) -> None:
    made = new_key(browser)
    sign_in(browser, made["key"])
    with database.transaction() as tx:
        tx.execute(text("UPDATE api_keys SET expires_at = now() WHERE id = :id"), {"id": made["id"]})
    assert_problem(browser.get("/v1/files"), 401, "unauthorized")


def test_signing_out_takes_the_cookie_away(browser: TestClient) -> None:
    sign_in(browser, new_key(browser)["key"])
    assert browser.delete("/v1/session", headers=OWN_PAGE).status_code == 204
    assert not browser.cookies
    assert_problem(browser.get("/v1/session"), 401, "unauthorized")


def test_a_dead_session_gives_way_to_a_new_one(browser: TestClient) -> None:
    browser.cookies.set(sessions.COOKIE, "what.ever", path="/v1")
    assert_problem(browser.get("/v1/session"), 401, "unauthorized")
    key = new_key(browser, role="viewer")["key"]
    answer = browser.post("/v1/session", json={"key": key}, headers=OWN_PAGE)
    (cookie,) = SimpleCookie(answer.headers["set-cookie"]).values()
    browser.cookies.clear()
    browser.cookies.set(sessions.COOKIE, cookie.value, path="/v1")
    assert browser.get("/v1/session").json()["role"] == "viewer"


def test_a_session_writes_from_its_own_pages(browser: TestClient) -> None:
    sign_in(browser, new_key(browser)["key"])
    sent = {"files": {"file": ("f.jsonl", EXAMPLE)}, "data": {"purpose": "fine-tune"}}
    without_header = {"X-Bitsmith-CSRF": "1"}  # browsers leave Sec-Fetch-Site out where there is no TLS
    assert browser.post("/v1/files", headers=OWN_PAGE, **sent).status_code == 200  # type: ignore[arg-type]
    assert browser.post("/v1/files", headers=without_header, **sent).status_code == 200  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"X-Bitsmith-CSRF": "0"},
        {"X-Bitsmith-CSRF": "1", "Sec-Fetch-Site": "cross-site"},
        {"X-Bitsmith-CSRF": "1", "Sec-Fetch-Site": "same-site"},
        {"X-Bitsmith-CSRF": "1", "Origin": "https://elsewhere.example"},
        {"X-Bitsmith-CSRF": "1", "Origin": "null"},
    ],
)
def test_a_session_writes_for_no_other_page(browser: TestClient, headers: dict[str, str]) -> None:
    sign_in(browser, new_key(browser)["key"])
    answer = browser.post(
        "/v1/files", files={"file": ("f.jsonl", EXAMPLE)}, data={"purpose": "fine-tune"}, headers=headers
    )
    assert_problem(answer, 403, "forbidden")
    assert browser.get("/v1/files").json()["data"] == []
    assert_problem(browser.request("DELETE", "/v1/session", headers=headers), 403, "forbidden")
    assert_problem(browser.post("/v1/session", json={"key": KEY}, headers=headers), 403, "forbidden")


def test_a_key_needs_no_such_header(browser: TestClient) -> None:
    """No browser adds a key by itself, so other clients are asked for nothing."""
    sent = {"files": {"file": ("f.jsonl", EXAMPLE)}, "data": {"purpose": "fine-tune"}}
    headers = {"Authorization": f"Bearer {KEY}", "Sec-Fetch-Site": "cross-site"}
    assert browser.post("/v1/files", headers=headers, **sent).status_code == 200  # type: ignore[arg-type]


def test_the_key_that_is_sent_counts_and_not_the_cookie(browser: TestClient) -> None:
    sign_in(browser, KEY)
    assert_problem(browser.get("/v1/files", headers={"Authorization": "Bearer wrong-key"}), 401, "unauthorized")
    assert_problem(browser.get("/v1/files", headers={"Authorization": "Basic eDp5"}), 401, "unauthorized")


def test_the_installations_session_acts_in_the_project_it_names(browser: TestClient) -> None:
    blue = new_project(browser, "blue")
    told = sign_in(browser, KEY)
    assert (told["is_installation"], told["key_id"], told["project"]) == (True, None, "proj-default")
    assert browser.get("/v1/session", headers=in_project(blue)).json()["project_name"] == "blue"


def test_a_projects_session_acts_in_its_project_only(browser: TestClient) -> None:
    blue = new_project(browser, "blue")
    sign_in(browser, new_key(browser)["key"])
    assert_problem(browser.get("/v1/session", headers=in_project(blue)), 403, "forbidden")


def test_what_a_session_does_is_in_its_keys_trail(browser: TestClient) -> None:
    made = new_key(browser)
    sign_in(browser, made["key"])
    sent = {"files": {"file": ("f.jsonl", EXAMPLE)}, "data": {"purpose": "fine-tune"}}
    file_id = browser.post("/v1/files", headers=OWN_PAGE, **sent).json()["id"]  # type: ignore[arg-type]
    (row,) = browser.get("/v1/audit_events", params={"target": file_id}, headers=BOOTSTRAP).json()["data"]
    assert row["actor"] == made["id"]


BOOTSTRAP_KEY, NOW = SecretStr("bootstrap-key"), datetime(2026, 11, 21, tzinfo=UTC)


def test_a_cookie_is_read_back_until_it_expires() -> None:
    session = sessions.Session(actor="key-a", expires_at=NOW + timedelta(seconds=10))
    value = sessions.sign(session, BOOTSTRAP_KEY)
    assert sessions.read(value, BOOTSTRAP_KEY, now=NOW + timedelta(seconds=9)) == session
    with pytest.raises(Unauthorized, match="expired"):
        sessions.read(value, BOOTSTRAP_KEY, now=NOW + timedelta(seconds=10))


def test_a_changed_cookie_is_refused_wherever_it_is_changed() -> None:
    value = sessions.sign(sessions.Session(actor="key-a", expires_at=NOW + timedelta(days=1)), BOOTSTRAP_KEY)
    for at, letter in enumerate(value):
        changed = f"{value[:at]}{'A' if letter != 'A' else 'B'}{value[at + 1 :]}"
        with pytest.raises(Unauthorized, match="not known"):
            sessions.read(changed, BOOTSTRAP_KEY, now=NOW)
    for other in ("", ".", "a.b", value.partition(".")[0], f"{value}.", "é.é"):
        with pytest.raises(Unauthorized, match="not known"):
            sessions.read(other, BOOTSTRAP_KEY, now=NOW)


def test_another_bootstrap_key_ends_all_sessions() -> None:
    value = sessions.sign(sessions.Session(actor="key-a", expires_at=NOW + timedelta(days=1)), BOOTSTRAP_KEY)
    with pytest.raises(Unauthorized, match="not known"):
        sessions.read(value, SecretStr("another-key"), now=NOW)
