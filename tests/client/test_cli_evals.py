"""`bitsmith evals` prints what differs, or why that cannot be said, and keeps a judge's key from the platform."""

import json
from pathlib import Path
from typing import Any

import pytest
from bitsmith_client.cli import app
from typer.testing import CliRunner

from tests.client.conftest import Request, Serve

KEYS = ["--key", "key-of-the-platform"]
TASK = {
    "task": "piqa", "metric": "acc", "unit": "share of right answers", "higher_is_better": True, "a": 0.25, "b": 1.0,
    "a_stderr": 0.1, "b_stderr": 0.0, "difference": -0.75, "stderr": 0.07, "low": -0.9, "high": -0.6, "p_value": 1e-9,
    "n": 40, "significant": True, "verdict": "worse", "reason": None,
}  # fmt: skip
GONE = dict.fromkeys(("a", "a_stderr", "difference", "stderr", "low", "high", "p_value", "n"))
WORDS = {"significant": False, "verdict": "not comparable", "reason": "tiny@1 was not scored on it"}
UNKNOWN = TASK | GONE | WORDS | {"task": "wic"}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


def body_of(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.body)
    return body


def test_a_comparison_shows_the_difference_or_the_reason(serve: Serve) -> None:
    body = {"a": "tiny@1", "b": "tiny@2", "confidence": 0.95, "tasks": [TASK, UNKNOWN]}
    server = serve(lambda request, _: request.answer_json(200, body))
    shown = run("models", "compare", "tiny@1", "tiny@2", "--url", server.url, *KEYS)
    assert "-0.75 ± 0.07" in shown
    assert "worse" in shown
    assert "not comparable: tiny@1 was not scored on it" in shown
    assert server.requests[0].path == "/v1/evals/compare?a=tiny%401&b=tiny%402&confidence=0.95"


def test_a_version_is_evaluated_again_by_a_job(serve: Serve) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(request: Request, _: int) -> None:
        bodies.append(body_of(request))
        job = {"id": "ftjob-1", "model": "hf:org/tiny", "training_file": None, "status": "queued", "created_at": 1}
        request.answer_json(200, job)

    server = serve(answer)
    chosen = ["--benchmark", "mmlu=file-1:5", "--no-base", "--set", "multiple_choice=null"]
    assert run("evals", "run", "tiny@prod", *chosen, "--url", server.url, *KEYS).strip() == "ftjob-1"
    benchmarks = [{"task": "mmlu", "file": "file-1", "num_fewshot": 5}]
    evaluation = {"multiple_choice": None, "benchmarks": benchmarks}
    wanted = {"version": "tiny@prod", "base": False, "evaluation": evaluation}
    assert bodies == [{"method": {"type": "evaluate", "evaluate": wanted}, "seed": 0}]


def test_judging_records_verdicts_and_keeps_the_judges_key_to_itself(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str, dict[str, Any]]] = []

    def answer(request: Request, _: int) -> None:
        body = body_of(request)
        seen.append((request.path, request.headers["Authorization"], body))
        if request.path == "/v1/judgements":
            made = {"id": "judge-1", "title": body["title"], "judge": body["judge"], "contestants": ["good", "bad"]}
            request.answer_json(200, made)
            return
        text = "VERDICT: A" if body["model"] == "some-judge" else f"I am {body['model']}"
        request.answer_json(200, {"choices": [{"message": {"content": text}}]})

    server = serve(answer)
    monkeypatch.setenv("BITSMITH_JUDGE_KEY", "key-of-the-judge")
    monkeypatch.setenv("BITSMITH_ENDPOINT_KEY", "key-of-the-others")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "who?"}\n')
    files = ["--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    asked = ["--judge", "some-judge", "--judge-url", f"{server.url}/v1"]
    elsewhere = ["--endpoint", f"good={server.url}/v1", "--endpoint", f"bad={server.url}/v1"]
    run("evals", "judge", "good", "bad", *files, *asked, *elsewhere, "--url", server.url, *KEYS)

    path, key, body = seen[-1]
    assert (path, key) == ("/v1/judgements", "Bearer key-of-the-platform")
    assert [(v["first"], v["second"], v["winner"]) for v in body["verdicts"]] == [(0, 1, "first"), (1, 0, "first")]
    assert "key-of-the-judge" not in json.dumps(body)
    others = "Bearer key-of-the-others"
    keys = {sent["model"]: key for _, key, sent in seen[:-1]}
    assert keys == {"good": others, "bad": others, "some-judge": "Bearer key-of-the-judge"}
