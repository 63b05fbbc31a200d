"""Speaks the engine's side of bitsmith_core.chat without a model: what it does is in FOLDER/script.json.

    {"memory_bytes": 100, "needs_bytes": 0, "words": ["a", "b"], "pause_s": 0.0, "dies_after": null, "fails": null,
     "is_stubborn": false}

Each word is a delta. Every line that it reads is appended to FOLDER/heard.jsonl.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory-bytes", type=int)
    arguments, _ = parser.parse_known_args()
    script = json.loads((arguments.folder / "script.json").read_text())
    if script.get("fails"):
        say(type="failed", code="unusable_model", message=script["fails"])
        sys.exit(1)
    if script.get("needs_bytes", 0) > arguments.memory_bytes:
        say(type="failed", code="out_of_space", message=f"it needs {script['needs_bytes']} bytes")
        sys.exit(1)
    if script.get("is_stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(script.get("load_s", 0.0))
    say(
        type="ready", device="none", context_tokens=10, memory_bytes=script.get("memory_bytes", 100),
        packed_bytes=0, load_s=0.0,
    )  # fmt: skip
    cancelled: set[str] = set()
    for line in sys.stdin:
        with (arguments.folder / "heard.jsonl").open("a") as heard:
            heard.write(line)
        request = json.loads(line)
        if request["type"] == "cancel":
            cancelled.add(request["id"])
        else:
            threading.Thread(target=answer, args=(request["id"], script, cancelled), daemon=True).start()


def answer(id_: str, script: dict[str, Any], cancelled: set[str]) -> None:
    words = script.get("words", ["a", "b"])
    for said, word in enumerate(words):
        if id_ in cancelled:
            return
        if script.get("dies_after") == said:
            os._exit(9)
        say(type="delta", id=id_, text=word)
        time.sleep(script.get("pause_s", 0.0))
    say(type="done", id=id_, finish="stop", prompt_tokens=1, completion_tokens=len(words))


if __name__ == "__main__":
    main()
