"""`bitsmith keys` and `bitsmith projects`, against a real server."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bitsmith_client.cli import app
from bitsmith_client.lab.stack import Stack
from bitsmith_client.sdk import ApiError, Bitsmith
from typer.testing import CliRunner, Result

Run = Callable[..., Result]


@pytest.fixture
def run(lab: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")

    def invoke(*arguments: object) -> Result:
        words = [*(str(argument) for argument in arguments), "--state", str(lab.state.folder)]
        return CliRunner().invoke(app, words)

    return invoke


def test_a_key_from_its_making_to_its_end(run: Run, lab: Stack) -> None:
    made = run("keys", "create", "nightly runs", "--role", "viewer", "--scope", "files:read", "--expires-days", 1)
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    key_id = f"key-{key.split('_')[1]}"
    assert key_id in made.stderr

    with Bitsmith(lab.config.url, key) as bitsmith:
        bitsmith.files.list()
        with pytest.raises(ApiError, match="jobs:read"):
            bitsmith.jobs.list()

        listed = run("keys", "list").stdout
        assert key_id in listed
        assert "files:read" in listed
        assert key not in listed

        assert run("keys", "revoke", key_id).exit_code == 0
        with pytest.raises(ApiError, match="revoked"):
            bitsmith.files.list()
    assert "revoked" in run("keys", "list").stdout


def test_a_project_with_limits_keys_and_an_end(run: Run, lab: Stack) -> None:
    project = run("projects", "create", "blue", "--open-jobs", 5).stdout.strip()
    assert "open_jobs=5" in run("projects", "list").stdout
    assert run("projects", "limits", project, "--storage-bytes", 9).stdout == f"{project}: storage_bytes=9\n"
    assert "open_jobs" not in run("projects", "list").stdout

    key = run("keys", "create", "of blue", "--role", "admin", "--project", project).stdout.strip()
    with Bitsmith(lab.config.url, key) as bitsmith:
        assert [found.id for found in bitsmith.projects.list()] == [project]
        assert run("projects", "archive", project).exit_code == 0
        with pytest.raises(ApiError, match="archived"):
            bitsmith.files.list()
        assert run("projects", "restore", project).exit_code == 0
        bitsmith.files.list()


def test_a_role_that_does_not_exist_is_one_line_and_status_1(run: Run) -> None:
    failed = run("keys", "create", "x", "--role", "king")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: ")
    assert "role" in failed.stderr
