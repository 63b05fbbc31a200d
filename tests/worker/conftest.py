"""A platform in small: real servers, a real scheduler and real workers as processes; only the engine is scripted."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_core import files, jobs, registry
from bitsmith_core.db import Database, Tx
from bitsmith_core.ids import DEFAULT_PROJECT, FileId, JobId
from bitsmith_core.jobs import JobStatus
from bitsmith_core.queue import Courier
from bitsmith_core.settings import DatabaseSettings, QueueSettings, StorageSettings
from bitsmith_core.spec import JobSpec, QsftMethod, QsftSettings, Resources
from bitsmith_core.storage import S3Store

ENGINE = Path(__file__).with_name("scripted_engine.py")


def until(condition: Callable[[], bool], *, within_s: float = 30.0, what: str = "it") -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s} s"
        time.sleep(0.05)


def family(child: Child) -> list[psutil.Process]:
    """A process and all that descend from it."""
    assert child.pid is not None
    process = psutil.Process(child.pid)
    return [process, *process.children(recursive=True)]


class Platform:
    def __init__(
        self,
        folder: Path,
        database: Database,
        store: S3Store,
        courier: Courier,
        database_settings: DatabaseSettings,
        queue_settings: QueueSettings,
        storage_settings: StorageSettings,
    ) -> None:
        self.folder, self.database, self.store, self.courier = folder, database, store, courier
        self.database_url = database_settings.url.get_secret_value()
        self.queue_url = queue_settings.url.get_secret_value()
        self.storage = storage_settings
        self.scratch = folder / "scratch"
        self.children: list[Child] = []
        model = folder / "models" / "base"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")

    def scheduler(self) -> Child:
        child = self._start("scheduler", [sys.executable, "-m", "bitsmith_scheduler"], {}, lambda: True)
        child.wait_ready()
        return child

    def worker(self, name: str = "w1", **environment: str) -> Child:
        """A worker that has reported its presence. environment overrides what is set here."""
        child = self.start_worker(name, **environment)
        child.wait_ready()
        return child

    def start_worker(self, name: str = "w1", **environment: str) -> Child:
        ours = {
            "BITSMITH_WORKER_NAME": name,
            "BITSMITH_WORKER_SCRATCH": str(self.scratch),
            "BITSMITH_WORKER_MODELS": str(self.folder / "models"),
            "BITSMITH_WORKER_ENGINE": json.dumps([sys.executable, str(ENGINE)]),
            "BITSMITH_WORKER_LEASE_S": "3",
            "BITSMITH_WORKER_HEARTBEAT_S": "0.3",
            "BITSMITH_WORKER_ENGINE_STOP_S": "1",
            "BITSMITH_WORKER_METRICS_EVERY_S": "0.2",
            "BITSMITH_WORKER_LOG_EVERY_S": "0.2",
        }
        return self._start(
            name, [sys.executable, "-m", "bitsmith_worker"], {**ours, **environment}, lambda: self.is_present(name)
        )

    def is_present(self, name: str) -> bool:
        with self.database.transaction() as tx:
            return any(worker.name == name for worker in jobs.workers.alive(tx))

    def submit(self, model: str = "local:base", *, pool: str = "default", **metadata: str) -> JobId:
        with self.database.transaction() as tx:
            spec = JobSpec(
                model=model,
                method=QsftMethod(qsft=QsftSettings(resources=Resources(pool=pool))),
                training_file=self.file(tx, "training.jsonl"),
                validation_file=self.file(tx, "validation.jsonl"),
                metadata=metadata,
            )
            return jobs.submit(tx, spec, project=DEFAULT_PROJECT).id

    def job(self, job_id: JobId) -> jobs.Job:
        with self.database.transaction() as tx:
            return jobs.get(tx, job_id)

    def events(self, job_id: JobId) -> list[dict[str, Any]]:
        with self.database.transaction() as tx:
            return [event.data for event in jobs.events_after(tx, job_id, seq=0, limit=10_000)]

    def story(self, job_id: JobId) -> list[str]:
        """The history in short: event names, with the stage where there is one; without progress."""
        told = [event for event in self.events(job_id) if event["event"] != "progress"]
        return [f"{event['event']} {event['stage']}" if "stage" in event else event["event"] for event in told]

    def outcomes(self, job_id: JobId) -> list[str | None]:
        with self.database.transaction() as tx:
            return [attempt.outcome for attempt in jobs.attempts(tx, job_id)]

    def attempts(self, job_id: JobId) -> list[jobs.Attempt]:
        with self.database.transaction() as tx:
            return jobs.attempts(tx, job_id)

    def steps_kept(self, job_id: JobId) -> list[int]:
        """Of training: the steps whose checkpoints a next attempt finds."""
        with self.database.transaction() as tx:
            kept = jobs.checkpoints(tx, job_id)
        return [checkpoint.step for checkpoint in kept if checkpoint.step]

    def versions(self) -> int:
        with self.database.transaction() as tx:
            return registry.count_versions(tx)

    def until_status(self, job_id: JobId, *statuses: JobStatus, within_s: float = 90.0) -> None:
        until(lambda: self.job(job_id).status in statuses, within_s=within_s, what=f"{job_id} becoming {statuses}")

    def until_training(self, job_id: JobId, *, attempt: int = 1) -> int:
        """Wait until the engine of that attempt trains and its first stage is kept; answers the engine's pid."""

        def pid() -> int | None:
            events = self.events(job_id)
            starts = [n for n, event in enumerate(events) if event["event"] == "job.started"]
            if len(starts) < attempt:
                return None
            for event in events[starts[attempt - 1] :]:
                if event["event"] == "progress" and "pid" in event["metrics"]:
                    return int(event["metrics"]["pid"])
            return None

        def is_kept() -> bool:
            with self.database.transaction() as tx:
                return any(checkpoint.stage == "measuring" for checkpoint in jobs.checkpoints(tx, job_id))

        until(lambda: pid() is not None and is_kept(), what="training")
        found = pid()
        assert found is not None
        return found

    def stop(self) -> None:
        for child in self.children:
            if child.is_running():
                for process in family(child):
                    process.send_signal(signal.SIGCONT)  # a stopped one would not die of its parent's death
                child.kill()

    def _start(self, name: str, command: list[str], environment: dict[str, str], is_ready: Callable[[], bool]) -> Child:
        ours = {
            "BITSMITH_DATABASE_URL": self.database_url,
            "BITSMITH_QUEUE_URL": self.queue_url,
            "BITSMITH_STORAGE_ENDPOINT": self.storage.endpoint,
            "BITSMITH_STORAGE_ACCESS_KEY": self.storage.access_key,
            "BITSMITH_STORAGE_SECRET_KEY": self.storage.secret_key.get_secret_value(),
            "BITSMITH_STORAGE_SECURE": "false",
            "BITSMITH_SCHEDULER_INTERVAL_S": "0.1",
        }
        spec = ChildSpec(name=name, command=command, is_ready=is_ready, environment={**ours, **environment})
        child = Child(spec, self.folder)
        child.start()
        self.children.append(child)
        return child

    def file(self, tx: Tx, name: str) -> FileId:
        path = self.folder / name
        path.write_text(f'{{"prompt": "{name}", "completion": "b"}}\n')
        sha256 = files.store_bytes(self.store, path)
        size = path.stat().st_size
        return files.add(
            tx, project=DEFAULT_PROJECT, filename=name, purpose="fine-tune", size_bytes=size, sha256=sha256, examples=1
        ).id


@pytest.fixture
def platform(
    tmp_path: Path,
    database: Database,
    store: S3Store,
    courier: Courier,
    database_settings: DatabaseSettings,
    queue_settings: QueueSettings,
    storage_settings: StorageSettings,
) -> Iterator[Platform]:
    platform = Platform(tmp_path, database, store, courier, database_settings, queue_settings, storage_settings)
    yield platform
    platform.stop()
    if os.environ.get("SHOW_LOGS"):
        for child in platform.children:
            sys.stderr.write(f"== {child.spec.name}\n{child.log_tail(60)}\n")


def port_of(url: str) -> int:
    port = urlsplit(url if "//" in url else f"//{url}").port
    assert port is not None
    return port
