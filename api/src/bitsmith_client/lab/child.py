"""A child process with a log file, a readiness check and a polite end.

Children write their pid beside their log, so that a start after a kill -9 of the parent finds and ends what is left.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil


class StartFailed(Exception):
    """A child did not come up; the message holds the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whom a child runs as when we are root and it refuses to be."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    name: str
    command: Sequence[str | Path]
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)  # added to ours
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None
    ready_within_s: float = 60.0
    stop_within_s: float = 20.0


class Child:
    def __init__(self, spec: ChildSpec, run_folder: Path) -> None:
        self.spec = spec
        self.log = run_folder / f"{spec.name}.log"
        self._pid_file = run_folder / f"{spec.name}.pid"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process, after ending one that an earlier, killed parent left."""
        self.end_leftover()
        account = self.spec.account
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in self.spec.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, **self.spec.environment},
                start_new_session=True,  # Ctrl-C reaches the parent only, which stops children in order
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        self._pid_file.write_text(f"{self._process.pid} {psutil.Process(self._process.pid).create_time()}")

    def wait_ready(self) -> None:
        """Raises StartFailed."""
        deadline = time.monotonic() + self.spec.ready_within_s
        while not self.spec.is_ready():
            if not self.is_running():
                raise StartFailed(f"{self.spec.name} ended while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{self.spec.name} was not ready within {self.spec.ready_within_s:.0f} s:\n{self.log_tail()}"
                )
            time.sleep(0.05)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ask it to stop; after stop_within_s, end its whole session."""
        if self._process is not None and self.is_running():
            self._process.send_signal(self.spec.stop_signal)
            try:
                self._process.wait(self.spec.stop_within_s)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the whole session at once, as a power cut would."""
        if self._process is not None and self.is_running():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def end_leftover(self) -> None:
        """End the process (and its children) that the pid file names, if it is still the same process."""
        try:
            pid, created = self._pid_file.read_text().split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(created)) > 1:
                return  # the number was given to somebody else
            family = [process, *process.children(recursive=True)]
            process.send_signal(self.spec.stop_signal)
            psutil.wait_procs(family, timeout=self.spec.stop_within_s)
            for left in family:
                if left.is_running():
                    left.kill()
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            pass
        self._pid_file.unlink(missing_ok=True)

    def log_tail(self, lines: int = 20) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""
