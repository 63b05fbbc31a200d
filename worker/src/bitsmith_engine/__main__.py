"""The only door: arguments in, wire lines out, exit status. The protocol is that of bitsmith_core.wire."""

import argparse
import os
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import (
    ADJUSTMENTS_FILE,
    Adjustments,
    ExitStatus,
    Failed,
    Finished,
    Line,
    encode,
)
from pydantic import ValidationError

from bitsmith_engine.errors import BadSpec, EngineError, Stopped, failed_line


def main() -> int:
    arguments = _parser().parse_args()
    lines = _claim_stdout()
    _exit_with_supervisor()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())

    leads = os.environ.get("RANK", "0") == "0"

    def emit(line: Line) -> None:
        if leads:
            lines.write(encode(line))
            lines.flush()

    try:
        digest = _run(arguments, emit, stop.is_set)
        if digest is not None:
            emit(Finished(manifest_sha256=digest))
    except Stopped as error:
        emit(failed_line(error))
        return ExitStatus.STOPPED
    except EngineError as error:
        if not leads:  # its lines go nowhere; a failure of one rank must not be silent
            sys.stderr.write(f"{error.code}: {error}\n")
        emit(failed_line(error))
        return ExitStatus.FAILED
    except Exception as error:
        traceback.print_exc()
        emit(failed_line(error))
        return ExitStatus.FAILED
    return ExitStatus.SUCCEEDED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bitsmith_engine",
        description="Run one Bitsmith job. Prints one JSON object a line (bitsmith_core.wire); logs go to stderr.",
        epilog="Run it again with the same OUT to continue after the last finished stage.",
    )
    parser.add_argument("spec", metavar="SPEC", type=Path, help="a JobSpec as JSON")
    parser.add_argument(
        "inputs",
        metavar="INPUTS",
        type=Path,
        help="folder with model/, training.jsonl, and if the spec has them validation.jsonl and packs/",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for stages/ and artifacts/")
    return parser


def _run(arguments: argparse.Namespace, emit: Callable[[Line], None], should_stop: Callable[[], bool]) -> str | None:
    """The manifest's digest, None on a rank that only helped."""
    spec = _read_spec(arguments.spec)
    adjustments = _read_adjustments(arguments.inputs / ADJUSTMENTS_FILE)
    # Waiting threads sleep: by default they spin, and on a machine that does anything else besides (a demo's database,
    # API and worker) they then take the time that the working thread needs. Read when torch loads its OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported here: it takes seconds that --help and a broken spec need not wait, and may print, so stdout goes first.
    import transformers

    from bitsmith_engine import pipeline

    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers types neither
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def give_up(failed: Failed) -> None:
        sys.stderr.write(f"another process of this run failed: {failed.code}: {failed.message}\n")
        emit(failed)
        os._exit(ExitStatus.FAILED)

    manifest = pipeline.run(
        spec,
        arguments.inputs,
        arguments.out,
        emit,
        should_stop,
        adjustments=adjustments,
        environment=os.environ,
        on_alarm=give_up,
    )
    return None if manifest is None else manifest.sha256


def _read_spec(path: Path) -> JobSpec:
    try:
        return JobSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadSpec(f"{path.name} is not a readable job spec: {error}") from error


def _read_adjustments(path: Path) -> Adjustments:
    try:
        return Adjustments.model_validate_json(path.read_bytes()) if path.exists() else Adjustments()
    except (OSError, ValidationError) as error:
        raise BadSpec(f"{path.name} is not readable: {error}") from error


def _claim_stdout() -> TextIO:
    """Stdout for wire lines alone: whatever else prints, in Python or below it, lands on stderr."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return lines


def _exit_with_supervisor() -> None:
    """End this process as soon as stdin closes; a terminal or a file for stdin is nobody to wait for."""
    if sys.stdin is None or not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        return

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(ExitStatus.ORPHANED)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


if __name__ == "__main__":
    status = main()
    if status == ExitStatus.FAILED and "RANK" in os.environ:
        os._exit(status)  # a process group that nobody took down may wait for the other processes
    sys.exit(status)
