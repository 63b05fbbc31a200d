"""Tells Postgres every few seconds that this worker is there, on what device, and which local models it has."""

import shutil
import subprocess
import threading
from pathlib import Path

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.log import get_logger

from bitsmith_worker import base_models
from bitsmith_worker.settings import WorkerSettings

log = get_logger()


class Presence:
    """A thread; it survives outages of Postgres and says goodbye when stopped."""

    def __init__(self, settings: WorkerSettings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """Ask the thread to sign off; safe in a signal handler."""
        self._leaving.set()

    def join(self, timeout_s: float = 5.0) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        device = detect_device()
        is_heard = True
        while not self._leaving.is_set():
            try:
                with self._database.transaction() as tx:
                    found = base_models.available(self._settings.models)
                    jobs.workers.report(tx, name=self._settings.name, device=device, local_models=found)
                if not is_heard:
                    log.info("presence.restored")
                is_heard = True
            except DatabaseUnavailable as error:
                if is_heard:  # once per outage
                    log.warning("presence.unheard", reason=str(error))
                is_heard = False
            self._leaving.wait(self._settings.presence_s)
        try:
            with self._database.transaction() as tx:
                jobs.workers.leave(tx, self._settings.name)
        except DatabaseUnavailable as error:
            log.warning("presence.left_silently", reason=str(error))


def detect_device() -> str:
    """cuda if the driver answers, else cpu. Without torch: this process must stay free of CUDA contexts."""
    if Path("/proc/driver/nvidia/version").exists() and any(Path("/dev").glob("nvidia[0-9]*")):
        return "cuda"
    if (tool := shutil.which("nvidia-smi")) is None:
        return "cpu"
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if listed.returncode == 0 and b"GPU " in listed.stdout else "cpu"
