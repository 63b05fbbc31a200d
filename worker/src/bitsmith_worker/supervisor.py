"""Runs one engine from start to end and says how it ended. Knows processes and the wire, nothing of jobs.

Its processes live in sessions of their own; their stdin stays open as long as we live, so that they notice when we do
not. They get no credentials: whatever BITSMITH_* holds is for us.
"""

import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from bitsmith_core import wire
from bitsmith_core.log import get_logger
from bitsmith_core.wire import ExitStatus, Failed, FailureClass, Finished, Line

from bitsmith_worker.heartbeat import POLL_S, Ending
from bitsmith_worker.machine import oom_kills
from bitsmith_worker.ranks import ALONE, Death, Ranks, Share, first_cause

log = get_logger()

_LONGEST_LINE = 1_000_000  # bytes
_STRAYS_SHOWN = 10
_EVIDENCE_LINES, _EVIDENCE_CHARS = 20, 2000
_LAST_WORDS_S = 2.0  # for output after the end: a process that escaped its session may hold the pipe open
_AFTERMATH_S = 5.0  # for rank 0 to say why another rank failed, which that one told it


class Ended(NamedTuple):
    """How an engine ended, and what is left to be seen of it."""

    outcome: Finished | Failed | Ending
    status: int  # of the process that decided it, as Popen gives it: negative for a signal
    log_end: str


def supervise(
    command: Sequence[str],
    *,
    folder: Path,
    log_file: Path,
    on_line: Callable[[Line], None],
    ending: Callable[[], Ending | None],
    stop_within_s: Callable[[Ending], float],
    share: Share = ALONE,
) -> Ended:
    """Run the engine to its end, which is that of its first process; the others end with it, or it with them.

    Args:
        folder: its working folder.
        log_file: takes its stderr.
        on_line: gets every line of the protocol; must not block.
        ending: asked many times a second why the engine must stop. It is asked to with SIGTERM and ended after
            stop_within_s; it is ended at once if the attempt may not write any more.
        stop_within_s: how long it gets; a graver reason later may cut that short.
        share: the engine's processes on this machine, rank 0 among them.

    Raises:
        AttemptFailed: the engine could not be started.
    """
    oom_kills_before = oom_kills()
    ranks = Ranks(command, share, folder=folder, log_file=log_file)
    process = ranks.first
    lines: queue.Queue[bytes | None] = queue.Queue(maxsize=10_000)
    assert process.stdout is not None
    threading.Thread(target=_read, args=(process.stdout, lines), name="engine-lines", daemon=True).start()
    last_word: Finished | Failed | None = None
    strays = 0
    asked: Ending | None = None
    kill_at = float("inf")

    def hear(raw: bytes) -> None:
        nonlocal last_word, strays
        line = decode(raw)
        if line is None:
            strays += 1
            if strays <= _STRAYS_SHOWN:
                log.warning("engine.said_something_else", text=raw[:200].decode(errors="replace"))
        elif isinstance(line, Finished | Failed):
            last_word = line
        else:
            on_line(line)

    try:
        is_silent = False
        while process.poll() is None:
            if is_silent:
                _wait(process, POLL_S)
            else:
                is_silent = _hear_next(lines, hear, within_s=POLL_S)
            reason = ending()
            if reason is not None and reason is not asked:
                log.info("engine.stop", reason=reason)
                if not reason.may_write:
                    kill_at = 0.0
                elif asked is None:
                    ranks.terminate()
                kill_at = min(kill_at, time.monotonic() + stop_within_s(reason))
                asked = reason
            if last_word is None and (deaths := ranks.deaths()):
                is_told = all(death.status == ExitStatus.FAILED for death in deaths)
                kill_at = min(kill_at, time.monotonic() + _AFTERMATH_S) if is_told else 0.0
            if time.monotonic() > kill_at:
                ranks.kill()
        ranks.kill()  # the other ranks, what they started and left behind
        deadline = time.monotonic() + _LAST_WORDS_S
        while not is_silent and not (lines.empty() and time.monotonic() > deadline):
            is_silent = _hear_next(lines, hear, within_s=POLL_S)
    finally:
        ranks.close()
    if strays > _STRAYS_SHOWN:
        log.warning("engine.said_much_else", lines=strays)
    evidence = log_tail(log_file)
    memory_ran_out = oom_kills_before is None or oom_kills() != oom_kills_before
    status = decisive(process.returncode, last_word, ranks.deaths())
    word = last_word if status == process.returncode else None
    outcome = judge(status, word, asked=asked, evidence=evidence, memory_ran_out=memory_ran_out)
    return Ended(outcome=outcome, status=status, log_end=evidence)


def decisive(status: int, last_word: Finished | Failed | None, deaths: Sequence[Death]) -> int:
    """The status that says why the engine ended: that of its first process, or of the one that took it along.

    Args:
        deaths: ranks that ended badly before we ended any, in the order of their ends.
    """
    if not deaths:
        return status
    cause = first_cause(deaths)
    has_reason = cause.status >= 0 and isinstance(last_word, Failed)
    return status if cause.rank == 0 or has_reason or isinstance(last_word, Finished) else cause.status


def judge(
    status: int,
    last_word: Finished | Failed | None,
    *,
    asked: Ending | None,
    evidence: str,
    memory_ran_out: bool,
) -> Finished | Failed | Ending:
    """What an engine's end means.

    Args:
        status: as Popen gives it, negative for a signal.
        asked: why we asked it to stop, if we did.
        memory_ran_out: the kernel may have ended a process for its memory meanwhile.
    """
    if asked is not None and not asked.may_write:
        return asked
    if status == ExitStatus.FAILED and isinstance(last_word, Failed):
        return last_word
    if asked is not None:
        return asked
    if status == ExitStatus.SUCCEEDED and isinstance(last_word, Finished):
        return last_word
    if status == -signal.SIGKILL and not memory_ran_out:
        problem = "The engine was killed by somebody else than its worker, and not for its memory."
        return Failed(failure=FailureClass.INFRA, code="engine_killed", message=_with_evidence(problem, evidence))
    if status == -signal.SIGKILL:
        problem = (
            "The engine was killed, most likely by the kernel for its memory. "
            "Choose a smaller micro_batch_size or max_length, or a worker with more memory."
        )
        return Failed(
            failure=FailureClass.RESOURCE, code="out_of_memory_or_killed", message=_with_evidence(problem, evidence)
        )
    if status == ExitStatus.STOPPED:
        problem = "The engine was told to stop by somebody else than its worker."
        return Failed(failure=FailureClass.INFRA, code="engine_stopped", message=problem)
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    problem = f"The engine ended with {how} without a result."
    return Failed(failure=FailureClass.UNKNOWN, code="engine_crashed", message=_with_evidence(problem, evidence))


def decode(raw: bytes) -> Line | None:
    """A line of the protocol, None for anything else. NUL is dropped: Postgres has no place for it in text."""
    try:
        return wire.decode(raw.replace(b"\\u0000", b""))
    except ValueError:
        return None


def log_tail(log_file: Path) -> str:
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - 4 * _EVIDENCE_CHARS))
            text = file.read().decode(errors="replace").replace("\0", "")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-_EVIDENCE_LINES:])[-_EVIDENCE_CHARS:]


def _read(stdout: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with stdout:
        while raw := stdout.readline(_LONGEST_LINE):
            lines.put(raw)
    lines.put(None)


def _hear_next(lines: queue.Queue[bytes | None], hear: Callable[[bytes], None], *, within_s: float) -> bool:
    """Pass on the next line if one comes in time; answers whether there are no more."""
    try:
        raw = lines.get(timeout=within_s)
    except queue.Empty:
        return False
    if raw is not None:
        hear(raw)
    return raw is None


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _with_evidence(problem: str, evidence: str) -> str:
    return f"{problem}\nThe end of its log:\n{evidence}" if evidence else problem
