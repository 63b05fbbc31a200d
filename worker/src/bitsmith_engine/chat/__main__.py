"""`python -m bitsmith_engine.chat FOLDER`: requests in, answers out. The protocol is that of bitsmith_core.chat."""

import argparse
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bitsmith_core.chat import REQUESTS, Ask, Cancel, Failed, Ready, encode
from bitsmith_core.wire import ExitStatus
from pydantic import BaseModel, ValidationError

from bitsmith_engine.errors import EngineError


def main() -> int:
    arguments = _parser().parse_args()
    lines = _claim_stdout()

    def emit(line: BaseModel) -> None:
        lines.write(encode(line))
        lines.flush()

    try:
        _serve(arguments, emit)
    except EngineError as error:
        emit(Failed(code=error.code, message=str(error)))
        return ExitStatus.FAILED
    except BrokenPipeError:
        return ExitStatus.ORPHANED
    except Exception as error:
        traceback.print_exc()
        emit(Failed(code="crashed", message=f"{type(error).__name__}: {error}"))
        return ExitStatus.FAILED
    return ExitStatus.SUCCEEDED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bitsmith_engine.chat",
        description="Answer conversations with a published bundle. JSON lines in and out (bitsmith_core.chat).",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a bundle: a native checkpoint, or one with bf16/")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--context-tokens", type=_positive, default=4096, help="prompt and answer together, at most")
    parser.add_argument("--parallel", type=_positive, default=2, help="answers written at once; more wait")
    parser.add_argument("--memory-bytes", type=_positive, help="for weights and caches; unpacked weights fill the rest")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _serve(arguments: argparse.Namespace, emit: Callable[[BaseModel], None]) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep; read when torch loads its OpenMP
    # Imported here: it takes seconds that --help need not wait, and may print, so stdout goes first.
    import transformers

    from bitsmith_engine.chat.opening import open_chat
    from bitsmith_engine.chat.turns import Turns, answer_all
    from bitsmith_engine.runtime import choose_runtime

    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers types neither
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    runtime = choose_runtime(arguments.device)
    chat = open_chat(
        arguments.folder,
        runtime,
        context_tokens=arguments.context_tokens,
        parallel=arguments.parallel,
        memory_bytes=arguments.memory_bytes,
    )
    requests: queue.SimpleQueue[Ask | Cancel | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), name="requests", daemon=True).start()
    emit(
        Ready(
            device=str(runtime),
            context_tokens=chat.context_tokens,
            memory_bytes=chat.memory_bytes,
            packed_bytes=chat.packed_bytes,
            load_s=chat.load_s,
        )
    )
    answer_all(Turns(chat, parallel=arguments.parallel, emit=emit), requests)


def _read(requests: "queue.SimpleQueue[Ask | Cancel | None]") -> None:
    for line in sys.stdin.buffer:
        try:
            requests.put(REQUESTS.validate_json(line))
        except ValidationError as error:
            sys.stderr.write(f"this line is no request: {error}\n")
    requests.put(None)


def _claim_stdout() -> BinaryIO:
    """Stdout for our lines alone: whatever else prints, in Python or below it, lands on stderr."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return lines


if __name__ == "__main__":
    sys.exit(main())
