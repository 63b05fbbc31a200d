"""The failure table: what may happen to the platform, and what must hold then. Tests do it, these hooks count it.

A test that makes such a thing really happen says so: `@pytest.mark.failure("worker killed")`. With BITSMITH_REPEAT=20
it runs twenty times, and the run ends with how often each row held.
"""

import os
from collections import Counter

import pytest

TABLE = {
    "api restarted": "a client that comes back with Last-Event-ID loses and doubles no event",
    "broker flushed": "of many queued and running jobs all finish, each exactly once",
    "message repeated": "one attempt",
    "engine killed": "the job goes on from its last checkpoint",
    "worker killed": "another worker goes on from the last checkpoint; the model is the same, bit for bit",
    "node killed": "the attempt ends; with a node in its place the job goes on to the same model, bit for bit",
    "worker frozen": "what it writes after its lease ran out never becomes visible",
    "claims race": "exactly one wins",
    "postgres restarted": "training goes on, and only the owner of the job publishes",
    "store away": "the job succeeds after it has returned",
    "cancel races success": "exactly one wins, and whoever cancels after that is told so",
    "disk full": "a typed reason, nothing published, tried again elsewhere",
    "malformed input": "refused with a message that names the place; nothing stored",
}

_MARK = "failure"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_MARK}(row): makes a row of the failure table happen; BITSMITH_REPEAT times")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    times = int(os.environ.get("BITSMITH_REPEAT", "1"))
    if times > 1 and metafunc.definition.get_closest_marker(_MARK) is not None:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(1, times + 1), ids=lambda number: f"time {number}")


def note_rows(items: list[pytest.Item]) -> None:
    """Each test of the failure table counts for its row."""
    for item in items:
        for mark in item.iter_markers(_MARK):
            (row,) = mark.args
            assert row in TABLE, f"{item.nodeid} is marked as {row!r}, which is no row of the failure table"
            item.user_properties.append((_MARK, row))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    held: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            rows = [row for name, row in getattr(report, "user_properties", []) if name == _MARK]
            tried.update(rows)
            held.update(rows if outcome == "passed" else [])
    if not tried:
        return
    terminalreporter.section("failures made to happen")
    for row in sorted(tried, key=list(TABLE).index):
        terminalreporter.line(f"{row}: held {held[row]} of {tried[row]} times: {TABLE[row]}")
