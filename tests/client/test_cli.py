"""The command line: tables for people, JSON for programs, one line for a failure and a status that says which."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bitsmith_client.cli import app
from bitsmith_client.lab import servers
from bitsmith_client.lab.stack import Stack
from typer.testing import CliRunner, Result

from .conftest import Request, Serve

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: object, **environment: str) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)

    return invoke


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"model": "local:unusable", "suffix": "cli", "method": {"type": "qsft"}}))
    return path


def test_the_lab_of_the_state_folder_is_found_with_its_key(run: Run, lab: Stack, training_file: Path) -> None:
    sent = run("files", training_file, "--state", lab.state.folder)
    assert sent.exit_code == 0, sent.output
    assert "training.jsonl" in sent.stdout
    listed = json.loads(run("files", "--json", "--state", lab.state.folder).stdout)
    assert listed[0]["filename"] == "training.jsonl"
    assert listed[0]["id"] in sent.stdout


def test_the_environment_names_a_server_too(run: Run, lab: Stack) -> None:
    found = run("jobs", "--json", BITSMITH_URL=lab.config.url, BITSMITH_API_KEY=lab.config.api_key)
    assert found.exit_code == 0
    assert isinstance(json.loads(found.stdout), list)


def test_a_job_from_submission_to_cancellation(
    run: Run, lab: Stack, spec_file: Path, training_file: Path, validation_file: Path
) -> None:
    files = ("--training-file", training_file, "--validation-file", validation_file, "--state", lab.state.folder)
    resolved = run("submit", spec_file, *files, "--set", "method.qsft.training.max_steps=7", "--dry-run")
    assert resolved.exit_code == 0, resolved.output
    assert json.loads(resolved.stdout)["method"]["qsft"]["training"]["max_steps"] == 7

    job = run("submit", spec_file, *files).stdout.strip()
    assert job.startswith("ftjob-")
    assert job in run("jobs", "--state", lab.state.folder).stdout
    cancelled = run("cancel", job, "--state", lab.state.folder)
    assert cancelled.exit_code == 0 or "cannot become cancelled" in cancelled.stderr

    watched = run("watch", job, "--state", lab.state.folder)
    assert watched.exit_code == 1  # it did not succeed
    assert "Job queued." in watched.stdout
    assert f"error: {job} " in watched.stderr


def test_an_empty_registry_says_how_it_is_filled(run: Run, lab: Stack) -> None:
    assert "jobs that succeed publish here" in run("models", "--state", lab.state.folder).stdout
    assert json.loads(run("models", "--json", "--state", lab.state.folder).stdout) == []


@pytest.mark.parametrize(
    "arguments", [("watch", "ftjob-no"), ("cancel", "ftjob-no"), ("models", "nothing"), ("pull", "nothing@1")]
)
def test_what_is_not_there_is_one_line_and_status_1(run: Run, lab: Stack, arguments: tuple[str, ...]) -> None:
    result = run(*arguments, "--state", lab.state.folder)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: there is no ")
    assert result.stderr.count("\n") == 1


def test_a_server_that_does_not_answer_is_one_line_and_status_1(run: Run) -> None:
    result = run("jobs", "--url", f"http://127.0.0.1:{servers.free_port()}", "--key", "k")
    assert result.exit_code == 1
    assert "`bitsmith up`" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("jobs",), "bitsmith up"),
        (("jobs", "--url", "http://127.0.0.1:1"), "BITSMITH_API_KEY"),
        (("models", "best", "--keeps", "0.9", "--url", "http://127.0.0.1:1", "--key", "k"), "belong together"),
        (("submit", "nowhere.json"), "does not exist"),
        (("frobnicate",), "No such command"),
    ],
)
def test_a_command_that_makes_no_sense_has_status_2(run: Run, arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_spec_that_is_no_json_has_status_2_and_names_the_place(run: Run, spec_file: Path) -> None:
    spec_file.write_text('{"model": }')
    result = run("submit", spec_file, "--url", "http://127.0.0.1:1", "--key", "k")
    assert result.exit_code == 2
    assert "line 1, column 11" in result.stderr


def test_the_key_of_a_lab_never_travels_to_another_server(run: Run, lab: Stack, serve: Serve) -> None:
    def answer(request: Request, before: int) -> None:
        request.answer_json(200, {"data": [], "has_more": False})

    other = serve(answer)
    result = run("jobs", "--url", other.url, "--state", lab.state.folder)
    assert result.exit_code == 2
    assert other.requests == []
