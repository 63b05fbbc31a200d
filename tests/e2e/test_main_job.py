"""The main job on a toy model through every real part: API, scheduler, worker, engine, registry, three servers.

The platform is the lab's own; only the model and the data are small.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from bitsmith_client.lab.stack import Stack
from bitsmith_client.lab.state import LabState
from bitsmith_client.sdk import ApiError, Bitsmith, Event
from sqlalchemy import create_engine, text
from toy_model import save_toy_model, write_examples

LOAD_EXPORT = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
tokens = AutoTokenizer.from_pretrained(sys.argv[1])("1?", return_tensors="pt")
print(json.dumps(bool(model(**tokens).logits.isfinite().all())))
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="bitsmith-e2e-"))
    folder.chmod(0o711)
    state = LabState(folder)
    state.prepare()
    save_toy_model(state.models / "toy")
    with Stack(state) as running:
        yield running
    subprocess.run(["rm", "-rf", str(folder)], check=False)


@pytest.fixture(scope="module")
def bitsmith(stack: Stack) -> Iterator[Bitsmith]:
    with Bitsmith(stack.config.url, stack.config.api_key) as client:
        yield client


@pytest.fixture(scope="module")
def data(bitsmith: Bitsmith, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    write_examples(folder / "training.jsonl", 64)
    write_examples(folder / "validation.jsonl", 16, offset=100)
    return {name: bitsmith.files.upload(folder / f"{name.removesuffix('_file')}.jsonl").id for name in FILES}


FILES = ("training_file", "validation_file")
EVALUATION = {"perplexity_examples": 16, "multiple_choice": {"questions": 8, "choices": 3}}


def request(data: dict[str, str], suffix: str, **training: Any) -> dict[str, Any]:
    return {
        "model": "local:toy",
        **data,
        "suffix": suffix,
        "method": {
            "type": "qsft",
            "qsft": {
                "quantization": {"scheme": "layer-mix", "bpw": 3.0, "calibration_samples": 4},
                "training": {"batch_size": 8, "max_length": 64, **training},
                "evaluation": EVALUATION,
            },
        },
    }


def follow(bitsmith: Bitsmith, job_id: str, act: Callable[[Event], None] = lambda event: None) -> list[Event]:
    events = []
    for event in bitsmith.jobs.stream(job_id):
        events.append(event)
        act(event)
    return events


def finished_stages(events: list[Event], *, resumed: bool = False) -> list[str]:
    found = [event.data for event in events if event.name == "stage.finished"]
    return [stage["stage"] for stage in found if stage["resumed"] is resumed]


def test_a_spec_becomes_a_scored_checkpoint(bitsmith: Bitsmith, data: dict[str, str], tmp_path: Path) -> None:
    job = bitsmith.jobs.create(request(data, "main", epochs=2))
    events = follow(bitsmith, job.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert bitsmith.jobs.get(job.id).fine_tuned_model == "toy-main@1"
    assert finished_stages(events) == [
        "fetching", "measuring", "searching", "quantizing", "calibrating", "training", "evaluating", "exporting",
        "publishing",
    ]  # fmt: skip

    version = bitsmith.models.version("toy-main", 1)
    assert {(score.subject, score.task) for score in version.scores} == {
        (subject, task) for subject in ("float", "quantized", "qsft") for task in ("answer_perplexity", "answer_choice")
    }
    assert all(score.stderr is not None and score.n > 0 for score in version.scores)
    assert version.bpw_codes is not None
    assert version.bpw_effective is not None
    assert 2.0 <= version.bpw_codes <= 3.0 < version.bpw_effective + 1

    paths = bitsmith.models.download(version, tmp_path)
    by_path = {file.path: file.sha256 for file in version.files}
    assert {path.relative_to(tmp_path).as_posix() for path in paths} == set(by_path)
    for path in paths:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == by_path[path.relative_to(tmp_path).as_posix()]
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD_EXPORT, str(tmp_path / "bf16")], capture_output=True, text=True, check=True
    )
    assert json.loads(loaded.stdout) is True


@pytest.mark.slow
def test_a_version_evaluated_again_has_the_same_scores_to_the_last_bit(
    bitsmith: Bitsmith, data: dict[str, str]
) -> None:
    job = bitsmith.jobs.create(request(data, "again", epochs=1))
    follow(bitsmith, job.id)
    made = bitsmith.models.version("toy-again", 1)

    asked = {"version": "toy-again@1", "max_length": 64, "evaluation": EVALUATION}
    again = bitsmith.jobs.create(
        {"validation_file": data["validation_file"], "method": {"type": "evaluate", "evaluate": asked}}
    )
    events = follow(bitsmith, again.id)
    assert finished_stages(events) == ["fetching", "evaluating", "exporting", "publishing"]
    (found,) = bitsmith.evals.list(model="toy-again", limit=1)
    assert found.job_id == again.id
    measured = {(score.subject, score.task): (score.value, score.comparable_key) for score in made.scores}
    assert {(score.subject, score.task): (score.value, score.comparable_key) for score in found.results} == {
        key: value for key, value in measured.items() if key[0] != "quantized"
    }


@pytest.mark.slow
def test_a_gate_refuses_what_the_engine_measured_as_worse_and_lets_noise_pass(
    bitsmith: Bitsmith, data: dict[str, str]
) -> None:
    def published(spec: dict[str, Any]) -> int:
        follow(bitsmith, bitsmith.jobs.create(spec).id)
        return max(version.version for version in bitsmith.models.get("toy-gated").versions)

    trained = published(request(data, "gated", epochs=12))
    same = published(request(data, "gated", epochs=12))
    quantization = {"scheme": "uniform", "bits": 2, "initial": "rtn", "distillation": None}
    settings = {"quantization": quantization, "max_length": 64, "evaluation": EVALUATION}
    untrained = published({**request(data, "gated"), "method": {"type": "quantize", "quantize": settings}})

    bitsmith.models.point("toy-gated", "prod", trained)
    bitsmith.models.change("toy-gated", {"gates": {"prod": {"suite": ["answer_perplexity"], "against": "current"}}})
    with pytest.raises(ApiError) as refused:
        bitsmith.models.point("toy-gated", "prod", untrained)
    assert (refused.value.status, refused.value.code) == (409, "gate_refused")
    compared = bitsmith.models.compare(f"toy-gated@{untrained}", f"toy-gated@{trained}")
    assert {task.task: task.verdict for task in compared.tasks}["answer_perplexity"] == "worse"
    assert bitsmith.models.point("toy-gated", "prod", same).version == same


def test_a_worker_killed_in_training_costs_that_stage_only(
    stack: Stack, bitsmith: Bitsmith, data: dict[str, str]
) -> None:
    killed: list[int] = []

    def kill_once(event: Event) -> None:
        if event.name == "progress" and event.data["stage"] == "training" and not killed:
            worker = stack.pid("worker")
            assert worker is not None
            killed.extend([worker, *(child.pid for child in psutil.Process(worker).children(recursive=True))])
            os.killpg(worker, signal.SIGKILL)

    job = bitsmith.jobs.create(request(data, "killed", epochs=12))
    events = follow(bitsmith, job.id, kill_once)
    after = bitsmith.jobs.get(job.id)
    assert (after.status, after.attempts) == ("succeeded", 2)
    assert len(bitsmith.models.get("toy-killed").versions) == 1
    assert finished_stages(events, resumed=True) == ["measuring", "searching", "quantizing", "calibrating"]
    assert finished_stages(events).count("quantizing") == 1
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in killed) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in killed if psutil.pid_exists(pid)], "the engine outlived its supervisor"


@pytest.mark.slow
def test_a_flushed_broker_loses_no_job(stack: Stack, bitsmith: Bitsmith, data: dict[str, str]) -> None:
    first = bitsmith.jobs.create(request(data, "busy", epochs=6))
    second = bitsmith.jobs.create(request(data, "flushed", epochs=1))
    flushed = 0

    def flush(event: Event) -> None:
        nonlocal flushed
        if event.name in {"job.queued", "job.started"}:
            redis_flush_all(stack)
            flushed += 1

    follow(bitsmith, second.id, flush)
    assert flushed
    assert {bitsmith.jobs.get(job.id).status for job in (first, second)} == {"succeeded"}
    assert [bitsmith.jobs.get(job.id).attempts for job in (first, second)] == [1, 1]


def test_cancelling_in_training_publishes_nothing(stack: Stack, bitsmith: Bitsmith, data: dict[str, str]) -> None:
    job = bitsmith.jobs.create(request(data, "cancelled", epochs=50))

    def cancel(event: Event) -> None:
        if event.name == "progress" and event.data["stage"] == "training":
            bitsmith.jobs.cancel(job.id)

    follow(bitsmith, job.id, cancel)
    assert bitsmith.jobs.get(job.id).status == "cancelled"
    engine = create_engine(stack.config.database_url)
    with engine.connect() as connection:
        published = connection.scalar(text("SELECT count(*) FROM versions WHERE job_id = :id"), {"id": job.id})
    engine.dispose()
    assert published == 0


def redis_flush_all(stack: Stack) -> None:
    client = redis.Redis.from_url(stack.config.queue_url)
    client.flushall()
    client.close()
