"""python smoke.py MODEL TIMEOUT_S: one tiny job on the CPU from upload to a download that is checked, by the REST API.

The address and the key are in BITSMITH_URL and BITSMITH_API_KEY. Ends with 1 and a reason if any of it fails.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from bitsmith_client.sdk import Bitsmith


def examples(path: Path, first: int, count: int) -> Path:
    lines = (
        json.dumps({"prompt": f"{number}?", "completion": f"{number} is {'odd' if number % 2 else 'even'}"})
        for number in range(first, first + count)
    )
    path.write_text("\n".join(lines) + "\n")
    return path


def request(model: str, training_file: str, validation_file: str) -> dict[str, object]:
    return {
        "model": model,
        "training_file": training_file,
        "validation_file": validation_file,
        "suffix": f"helm-test-{int(time.time())}",
        "method": {
            "type": "qsft",
            "qsft": {
                "quantization": {"scheme": "layer-mix", "bpw": 3.0, "calibration_samples": 4, "initial": "rtn"},
                "training": {"batch_size": 8, "max_length": 64, "max_steps": 2},
                "evaluation": {"perplexity_examples": 8, "multiple_choice": None},
                "resources": {"device": "cpu"},
            },
        },
    }


def main() -> None:
    model, timeout_s = sys.argv[1], float(sys.argv[2])
    deadline = time.monotonic() + timeout_s
    with (
        Bitsmith(os.environ["BITSMITH_URL"], os.environ["BITSMITH_API_KEY"]) as bitsmith,
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name)
        training = bitsmith.files.upload(examples(folder / "training.jsonl", 0, 16))
        validation = bitsmith.files.upload(examples(folder / "validation.jsonl", 100, 8))
        job = bitsmith.jobs.create(request(model, training.id, validation.id))
        sys.stdout.write(f"submitted {job.id}\n")

        for event in bitsmith.jobs.stream(job.id):
            sys.stdout.write(f"{event.message}\n")
            if time.monotonic() > deadline:
                bitsmith.jobs.cancel(job.id)
                raise SystemExit(
                    f"{job.id} was not done within {timeout_s:.0f} s; is there a live worker that has {model}?"
                )
        job = bitsmith.jobs.get(job.id)
        if job.status != "succeeded" or job.fine_tuned_model is None:
            raise SystemExit(f"{job.id} ended as {job.status}")

        slug, _, number = job.fine_tuned_model.partition("@")
        files = bitsmith.models.download(bitsmith.models.version(slug, int(number)), folder / "model")
        sys.stdout.write(f"{job.fine_tuned_model}: {len(files)} files downloaded, every SHA-256 as promised\n")
        bitsmith.models.delete(slug)


if __name__ == "__main__":
    main()
