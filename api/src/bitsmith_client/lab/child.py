"""A child process with a log file, a readiness check and a polite end.

Children write their pid beside their log, so that a start after a kill -9 of the parent finds and ends what is left.
"""

import json
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
        end_leftover(self._pid_file)
        account = self.spec.account
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in self.spec.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**_plain_environment(), **self.spec.environment},
                start_new_session=True,  # Ctrl-C reaches the parent only, which stops children in order
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        self._remember(self._process.pid)

    def wait_ready(self) -> None:
        """Raises StartFailed."""
        deadline = time.monotonic() + self.spec.ready_within_s
        while True:
            if not self.is_running():
                raise StartFailed(f"{self.spec.name} ended while starting:\n{self.log_tail()}")
            if self.spec.is_ready():
                return
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{self.spec.name} was not ready within {self.spec.ready_within_s:.0f} s:\n{self.log_tail()}"
                )
            time.sleep(0.05)

    @property
    def exit_status(self) -> int | None:
        return self._process.poll() if self._process else None

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
        end_leftover(self._pid_file)

    def kill(self) -> None:
        """End the whole session at once, as a power cut would."""
        if self._process is not None and self.is_running():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _remember(self, pid: int) -> None:
        try:
            created = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            return  # ended at once; wait_ready says why
        leftover = {
            "pid": pid,
            "created": created,
            "stop_signal": int(self.spec.stop_signal),
            "stop_within_s": self.spec.stop_within_s,
        }
        self._pid_file.write_text(json.dumps(leftover))

    def log_tail(self, lines: int = 20) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


def end_leftover(pid_file: Path) -> None:
    """End the session whose leader the pid file names, also where only the leader's children are left of it."""
    try:
        known = json.loads(pid_file.read_text())
        pid, created = int(known["pid"]), float(known["created"])
        stop_signal, stop_within_s = signal.Signals(known["stop_signal"]), float(known["stop_within_s"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):  # cut short by the kill
        pid_file.unlink(missing_ok=True)
        return
    family = _session(pid, created)
    leaders = [process for process in family if process.pid == pid]
    for leader in leaders:
        family += [child for child in leader.children(recursive=True) if child not in family]
        leader.send_signal(stop_signal)
    deadline = time.monotonic() + (stop_within_s if leaders else 0.0)  # without its leader nobody tells the rest
    while any(_is_alive(process) for process in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in family:
        if _is_alive(process):
            process.kill()
    pid_file.unlink(missing_ok=True)


def _session(leader: int, created: float) -> list[psutil.Process]:
    """The live processes of the session that began with `leader` at `created`; none if the number went to another."""
    family = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and _is_alive(process):
                if process.pid == leader and abs(process.create_time() - created) > 1:
                    return []
                family.append(process)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return family


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _plain_environment() -> dict[str, str]:
    """Ours without platform settings: a lab is complete in itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BITSMITH_")}
