"""Every command that needs no worker, once against a real API: what it prints for people, and for programs."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bitsmith_client.cli import app
from bitsmith_client.sdk import Bitsmith
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.ids import JobId
from bitsmith_core.settings import DatabaseSettings, StorageSettings
from bitsmith_core.storage import S3Store
from bitsmith_core.wire import Metrics, Stage
from live_api import KEY, running_api
from typer.testing import CliRunner

MINUTE = timedelta(minutes=1)

Run = Callable[..., str]


@pytest.fixture(scope="module")
def address(
    database_settings: DatabaseSettings, storage_settings: StorageSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    # Addresses of webhooks are looked up when they are made; one of this machine needs no resolver.
    with running_api(
        tmp_path_factory.mktemp("api"), database_settings, storage_settings,
        BITSMITH_WEBHOOK_ALLOWED_NETWORKS='["127.0.0.0/8"]',
    ) as address:  # fmt: skip
        yield address


@pytest.fixture
def run(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What a command says on stdout; it must succeed."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object) -> str:
        words = [*(str(argument) for argument in arguments), "--url", address, "--key", KEY]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


@pytest.fixture
def job(address: str, database: Database, training_file: Path, validation_file: Path) -> JobId:
    with Bitsmith(address, KEY) as bitsmith:
        request = {
            "model": "hf:org/tiny",
            "training_file": bitsmith.files.upload(training_file).id,
            "validation_file": bitsmith.files.upload(validation_file).id,
        }
        return JobId(bitsmith.jobs.create(request).id)


@pytest.fixture
def lease(job: JobId, database: Database, store: S3Store, tmp_path: Path) -> jobs.Lease:
    """An attempt at the job is under way: two steps, a checkpoint, three lines in two pieces of a log."""
    with database.transaction() as tx:
        lease = jobs.claim(tx, job, worker="gpu-0", ttl=MINUTE)
        assert lease is not None
        jobs.record(tx, lease, Metrics(stage=Stage.TRAINING, steps=[1, 2], columns={"loss": [3.0, 2.5]}))
        jobs.keep_checkpoint(tx, lease, stage="training", step=2, prefix="p", files=["a"], metrics={"loss": 2.5})
        for number, text in enumerate(("one\ntwo\n", "three\n")):
            piece = tmp_path / f"piece-{number}"
            piece.write_text(text)
            store.put_file(f"{lease.prefix}/log-{number}", piece)
            jobs.keep_log(
                tx, lease, number=number, object_key=f"{lease.prefix}/log-{number}", size_bytes=len(text),
                lines=text.count("\n"),
            )  # fmt: skip
    return lease


@pytest.fixture
def attempted(lease: jobs.Lease) -> JobId:
    return lease.job_id


def said(run: Run, *arguments: object) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_a_job_is_paused_and_resumed(run: Run, job: JobId) -> None:
    assert run("pause", job) == f"{job} is paused\n"
    assert said(run, "jobs", "--status", "paused")[0]["id"] == job
    assert run("resume", job) == f"{job} is queued\n"


def test_a_running_job_pauses_after_a_checkpoint(run: Run, attempted: JobId) -> None:
    assert run("pause", attempted) == f"{attempted} will pause after a checkpoint\n"
    assert said(run, "jobs")[0]["desired_state"] == "pause"


def test_a_job_changes_its_place_in_the_queue(run: Run, job: JobId) -> None:
    nobody = "no live worker of the pool default, nor of any other"
    assert run("priority", job, 7) == f"{job} has priority 7, number 1 in the queue; {nobody}\n"
    assert said(run, "jobs")[0]["priority"] == 7


def test_a_clone_is_the_same_but_for_what_is_set(run: Run, job: JobId) -> None:
    clone = run("clone", job, "--set", "seed=5", "--set", "method.qsft.training.max_steps=9").strip()
    source, copy = sorted(said(run, "jobs"), key=lambda found: found["id"] == clone)
    assert (copy["id"], copy["seed"], source["seed"]) == (clone, 5, 0)
    assert copy["method"]["qsft"]["training"].pop("max_steps") == 9
    assert source["method"]["qsft"]["training"].pop("max_steps") is None
    assert copy["method"] == source["method"]


def test_curves_show_first_lowest_highest_and_last(run: Run, attempted: JobId) -> None:
    row = run("metrics", attempted).splitlines()[1].split()
    assert row == ["loss", "training", "1", "2", "1-2", "3", "2.5", "3", "2.5"]
    (series,) = said(run, "metrics", attempted, "--name", "loss")
    assert (series["steps"], series["values"]) == ([1, 2], [3.0, 2.5])
    assert said(run, "metrics", attempted, "--name", "flips") == []


def test_a_log_is_shown_whole_and_from_its_end(run: Run, attempted: JobId) -> None:
    assert run("logs", attempted) == "one\ntwo\nthree\n"
    assert run("logs", attempted, "--tail", 2) == "two\nthree\n"
    assert run("logs", attempted, "--attempt", 1) == "one\ntwo\nthree\n"


def test_following_a_log_ends_with_the_job(run: Run, lease: jobs.Lease, database: Database) -> None:
    assert run("cancel", lease.job_id) == f"{lease.job_id} will stop within seconds\n"
    with database.transaction() as tx:
        jobs.stopped(tx, lease)
    assert run("logs", lease.job_id, "--follow") == "one\ntwo\nthree\n"


def test_checkpoints_tell_their_step_and_loss(run: Run, attempted: JobId) -> None:
    assert "2.5000" in run("checkpoints", attempted)
    (checkpoint,) = said(run, "checkpoints", attempted)
    assert (checkpoint["step_number"], checkpoint["measured"]) == (2, {"loss": 2.5})


def test_attempts_tell_who_tried(run: Run, attempted: JobId) -> None:
    assert "gpu-0" in run("attempts", attempted)
    (attempt,) = said(run, "attempts", attempted)
    assert (attempt["number"], attempt["worker"], attempt["outcome"]) == (1, "gpu-0", None)


def test_what_is_not_there_yet_is_said(run: Run, job: JobId) -> None:
    assert run("metrics", job) == "nothing measured yet\n"
    assert run("checkpoints", job) == "no checkpoints yet\n"
    assert run("attempts", job) == "no attempts yet\n"
    assert run("logs", job) == ""


def test_a_file_comes_back_and_goes(run: Run, training_file: Path, database: Database, tmp_path: Path) -> None:
    (file,) = said(run, "files", training_file)
    assert run("files", "content", file["id"], "--output", "back.jsonl") == "back.jsonl\n"
    assert (tmp_path / "back.jsonl").read_bytes() == training_file.read_bytes()
    assert run("files", "rm", file["id"]) == f"{file['id']} is deleted\n"
    assert said(run, "files") == []


def test_keys_and_projects_are_told_to_programs(run: Run, database: Database) -> None:
    assert said(run, "keys", "list") == []
    key = run("keys", "create", "nightly runs").strip()
    (listed,) = said(run, "keys", "list")
    assert (listed["id"], listed["name"]) == (f"key-{key.split('_')[1]}", "nightly runs")
    assert [project["id"] for project in said(run, "projects", "list")] == ["proj-default"]


def test_a_webhook_from_its_making_to_its_end(run: Run, database: Database) -> None:
    assert run("webhooks", "ls") == "no webhooks yet; `bitsmith webhooks add` makes one\n"
    secret = run("webhooks", "add", "https://127.0.0.1/hook", "--event", "fine_tuning.job.failed").strip()
    assert secret.startswith("whsec_")
    (webhook,) = said(run, "webhooks", "ls")
    assert (webhook["url"], webhook["events"]) == ("https://127.0.0.1/hook", ["fine_tuning.job.failed"])
    assert "https://127.0.0.1/hook" in run("webhooks", "ls")

    assert run("webhooks", "deliveries", webhook["id"]) == "nothing was sent yet\n"
    sent = run("webhooks", "ping", webhook["id"]).split()[0]
    (delivery,) = said(run, "webhooks", "deliveries", webhook["id"], "--status", "pending")
    assert (delivery["id"], delivery["type"]) == (sent, "webhook.ping")
    assert sent in run("webhooks", "deliveries", webhook["id"])

    assert run("webhooks", "rm", webhook["id"]) == f"{webhook['id']} is deleted\n"
    assert said(run, "webhooks", "ls") == []


def test_what_a_webhook_did_not_take_is_sent_again(run: Run, address: str, database: Database) -> None:
    with Bitsmith(address, KEY) as bitsmith:
        webhook = bitsmith.webhooks.create("https://127.0.0.1/hook").id
        bitsmith.webhooks.ping(webhook)
        bitsmith.webhooks.change(webhook, enabled=False)  # what waited has failed with it
        (failed,) = bitsmith.webhooks.deliveries(webhook, status="failed")
        assert bitsmith.webhooks.change(webhook, enabled=True).enabled
        assert run("webhooks", "replay", webhook, failed.id) == f"{failed.id} is sent again\n"
        assert [found.id for found in bitsmith.webhooks.deliveries(webhook, status="pending")] == [failed.id]


def test_a_worker_is_listed_drained_and_let_work_again(run: Run, job: JobId, database: Database) -> None:
    assert run("workers", "ls") == "no worker has reported\n"
    with database.transaction() as tx:
        jobs.workers.report(tx, name="gpu-0", device="H100", devices=2, memory_bytes=80_000_000_000, local_models=[])
    assert run("workers", "drain", "gpu-0") == "gpu-0 takes no jobs\n"
    row = run("workers", "ls").splitlines()[1]
    assert "idle, draining" in row
    assert "2 x H100" in row
    assert run("workers", "undrain", "gpu-0") == "gpu-0 takes jobs again\n"
    with database.transaction() as tx:
        assert jobs.claim(tx, job, worker="gpu-0", ttl=MINUTE) is not None
    (worker,) = said(run, "workers", "ls")
    assert (worker["status"], worker["job_id"], worker["is_draining"]) == ("busy", job, False)
    assert run("workers", "drain", "gpu-0") == "gpu-0 gives back its job at a checkpoint\n"


def test_workers_are_listed_with_their_pool_and_by_it(run: Run, database: Database) -> None:
    with database.transaction() as tx:
        for name, pool in (("big", "h100"), ("small", "default")):
            jobs.workers.report(tx, name=name, pool=pool, device="cuda", local_models=[])
    rows = [line.split()[:2] for line in run("workers", "ls").splitlines()]
    assert rows == [["worker", "pool"], ["big", "h100"], ["small", "default"]]
    (worker,) = said(run, "workers", "ls", "--pool", "h100")
    assert (worker["id"], worker["pool"]) == ("big", "h100")
    assert run("workers", "ls", "--pool", "l40s") == "no worker of the pool l40s has reported\n"


def test_a_job_of_a_pool_without_workers_says_which_pools_there_are(run: Run, job: JobId, database: Database) -> None:
    with database.transaction() as tx:
        jobs.workers.report(tx, name="big", pool="h100", device="cuda", local_models=[])
    told = "no live worker of the pool default; there are pools: h100"
    assert run("priority", job, 5) == f"{job} has priority 5, number 1 in the queue; {told}\n"
