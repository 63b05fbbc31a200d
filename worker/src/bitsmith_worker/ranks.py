"""The processes of one engine on this machine, started together and ended together.

More than one are ranks of a data-parallel run. Each is told of the others in its environment, as torchrun would tell
it; torchrun itself is not in between, for it gives ranks sessions of their own and half a minute to reach a checkpoint.
Every rank has a pipe from us for its stdin, so none outlives us.
"""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple

from bitsmith_core import telemetry
from bitsmith_core.engines import engine_environment
from bitsmith_core.jobs import Lease
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import ExitStatus, FailureClass

from bitsmith_worker import machine
from bitsmith_worker.failure import AttemptFailed
from bitsmith_worker.machine import Machine
from bitsmith_worker.settings import GangSettings

_LONGEST_LINE = 65_536  # bytes
_LAST_LINES_S = 2.0


class Death(NamedTuple):
    """A rank that ended as no healthy one does."""

    rank: int
    status: int  # as Popen gives it, negative for a signal


def first_cause(deaths: Sequence[Death]) -> Death:
    """Why all ended: the first that a signal killed, which makes others fail, or else the first that failed.

    Args:
        deaths: in the order in which they were seen; at least one.
    """
    return min(deaths, key=lambda death: death.status >= 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which ranks of a run are started here, and where they find the others."""

    here: int = 1
    first: int = 0
    total: int = 1
    host: str = "127.0.0.1"  # where rank 0 is
    port: int = 0  # that it listens on; 0: any that is free
    run: str = "ranks"  # no other attempt's; its processes do not hear each other

    def environment(self, local_rank: int) -> dict[str, str]:
        if self.total == 1:
            return {}
        return {
            "RANK": str(self.first + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.total),
            "LOCAL_WORLD_SIZE": str(self.here),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
            "TORCHELASTIC_RUN_ID": self.run,
        }


ALONE = Share()


def processes_of(spec: JobSpec, *, asked: int | None, found: Machine) -> int:
    """How many ranks a job has on this machine: as many as its training can use.

    Args:
        asked: by this worker's settings; None: one for each GPU.
    """
    if spec.training is None:  # the engine refuses to be several for it
        return 1
    if asked is not None:
        return asked
    return found.devices if found.device == "cuda" and spec.settings.resources.device != "cpu" else 1


def share_of(spec: JobSpec, gang: GangSettings, *, processes: int, lease: Lease) -> Share:
    """This node's part of an attempt; all nodes have equally many processes, and rank 0 is the leader's first."""
    if spec.training is None or gang.nodes * processes == 1:
        return ALONE
    return Share(
        here=processes,
        first=gang.node_rank * processes if gang.is_helper else 0,
        total=gang.nodes * processes,
        host=gang.leader_host if gang.is_helper else "127.0.0.1",
        port=gang.leader_port if gang.nodes > 1 else 0,
        run=f"{lease.job_id}-{lease.label}",
    )


class Ranks:
    """The processes of one share.

    Raises:
        AttemptFailed: one could not be started; those before it are gone again.
    """

    def __init__(self, command: Sequence[str], share: Share, *, folder: Path, log_file: Path) -> None:
        if share.total > 1 and not share.port:
            share = _with_port(share)
        self._share, self._log_file = share, log_file
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pumps: list[threading.Thread] = []
        self._deaths: dict[int, Death] = {}
        self._is_killed = False
        for local_rank in range(share.here):
            self._processes.append(self._start(command, folder, local_rank))

    @property
    def first(self) -> subprocess.Popen[bytes]:
        return self._processes[0]

    def deaths(self) -> list[Death]:
        """Those that ended badly, in the order in which that was seen, and not by our hand."""
        if not self._is_killed:
            for local_rank, process in enumerate(self._processes):
                status = process.poll()
                if local_rank not in self._deaths and status not in (None, ExitStatus.SUCCEEDED, ExitStatus.STOPPED):
                    assert status is not None
                    self._deaths[local_rank] = Death(self._share.first + local_rank, status)
        return list(self._deaths.values())

    def are_running(self) -> bool:
        return any(process.poll() is None for process in self._processes)

    def terminate(self) -> None:
        """Ask the first one to stop; all stop at the step where it does."""
        self.first.terminate()

    def kill(self) -> None:
        """End all of them and whatever they started."""
        self.deaths()
        self._is_killed = True
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Nobody is left, and what they said last is in the log."""
        if self.are_running():
            self.kill()
        for process in self._processes:
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        for pump in self._pumps:
            pump.join(_LAST_LINES_S)

    def _start(self, command: Sequence[str], folder: Path, local_rank: int) -> subprocess.Popen[bytes]:
        rank = self._share.first + local_rank
        try:
            with self._log_file.open("ab") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,  # rank 0 alone speaks for all
                    stderr=log if rank == 0 else subprocess.PIPE,
                    cwd=folder,
                    env=self._environment(local_rank),
                    start_new_session=True,
                )
        except OSError as error:
            self.close()
            problem = f"The engine could not be started: {error}. Check BITSMITH_WORKER_ENGINE on this worker."
            raise AttemptFailed(FailureClass.INFRA, "engine_not_started", problem) from error
        if process.stderr is not None:
            said = (process.stderr, self._log_file, f"[rank {rank}] ".encode())
            self._pumps.append(threading.Thread(target=_pump, args=said, name=f"rank-{rank}-log", daemon=True))
            self._pumps[-1].start()
        return process

    def _environment(self, local_rank: int) -> dict[str, str]:
        shared = self._share.environment(local_rank)
        if shared:
            threads = max(1, machine.cores() // self._share.here)
            shared["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
        return {**engine_environment(os.environ), **_trace(), **shared}


def _with_port(share: Share) -> Share:
    with socket.socket() as probe:
        probe.bind((share.host, 0))
        return replace(share, port=probe.getsockname()[1])


def _pump(stderr: IO[bytes], log_file: Path, prefix: bytes) -> None:
    """Lines of one rank into the log of all, each with its rank before it."""
    with stderr, log_file.open("ab", buffering=0) as log:
        while line := stderr.readline(_LONGEST_LINE):
            log.write(prefix + line.removesuffix(b"\n") + b"\n")


def _trace() -> dict[str, str]:
    """OpenTelemetry's variable for programs that are started as part of a trace."""
    traceparent = telemetry.traceparent()
    return {} if traceparent is None else {"TRACEPARENT": traceparent}
