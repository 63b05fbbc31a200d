"""An engine that speaks the wire protocol and does in its training stage what the spec's metadata says.

act       finish (default), wait, train, fail, crash, garbage, stubborn, lie
gate      with wait, train and stubborn: the file whose appearance ends the waiting
hold_at   with train: the steps after which it waits, for the gate or for <gate>-<step>; 100 steps in all, a checkpoint
          after every tenth
failure   with fail: the class
only      do it in the first attempt only: a file that the first attempt makes
"""

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from bitsmith_core.bundle import (
    EVALS,
    MANIFEST,
    Environment,
    Evals,
    Manifest,
    QuantizationFacts,
    Score,
    StageFacts,
    describe_files,
)
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import (
    ADJUSTMENTS_FILE,
    CheckpointSaved,
    ExitStatus,
    Failed,
    FailureClass,
    Finished,
    Line,
    Metrics,
    Note,
    Progress,
    Stage,
    StageFinished,
    StageStarted,
    encode,
)

SPEC, INPUTS, OUT = map(Path, sys.argv[1:])
STAGES = (Stage.MEASURING, Stage.TRAINING)
SCORE = Score(
    subject="quantized", task="piqa", metric="acc", value=0.75, stderr=0.1, n=4, n_unit="questions",
    higher_is_better=True, comparable_key="k",
)  # fmt: skip
"""What an evaluation finds."""


def say(line: Line) -> None:
    sys.stdout.write(encode(line))
    sys.stdout.flush()


def die_with_the_supervisor() -> None:
    while os.read(0, 1):  # not sys.stdin: a daemon thread in its lock aborts the interpreter's end
        pass
    os._exit(ExitStatus.ORPHANED)


def wait(spec: JobSpec, stage: Stage) -> None:
    for step in range(100_000):
        if Path(spec.metadata["gate"]).exists():
            return
        say(Progress(stage=stage, done=step, total=100_000, metrics={"loss": float("nan"), "pid": os.getpid()}))
        time.sleep(0.05)


def train(spec: JobSpec, stage: Stage) -> None:
    """Count to a hundred, from the newest checkpoint on; SIGTERM leaves one at the step it meets."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    folder = OUT / "stages" / ".training-scratch" / "run"
    done = max((int(found.name.removeprefix("step-")) for found in folder.glob("step-*")), default=0)
    sys.stderr.write(f"training from step {done}\n")

    def save() -> None:
        part = folder / f".step-{done:08d}"
        (part / "deep").mkdir(parents=True)
        (part / "deep" / "state.bin").write_bytes(os.urandom(1000) + str(done).encode())
        target = folder / f"step-{done:08d}"
        older = list(folder.glob("step-*"))
        part.rename(target)
        for other in older:
            doomed = other.with_name(f".old-{other.name}")
            other.rename(doomed)
            shutil.rmtree(doomed)
        path = target.relative_to(OUT).as_posix()
        say(CheckpointSaved(stage=stage, step=done, path=path, metrics={"loss": 1 / done}))

    while done < 100:
        done += 1
        say(Metrics(stage=stage, steps=[done], columns={"loss": [1 / done]}))
        say(Progress(stage=stage, done=done, total=100, metrics={"loss": 1 / done, "pid": os.getpid()}))
        if done % 10 == 0:
            save()
            sys.stderr.write(f"step {done}\n")
        gates = [Path(spec.metadata["gate"]), Path(f"{spec.metadata['gate']}-{done}")]
        while str(done) in spec.metadata["hold_at"].split() and not any(gate.exists() for gate in gates):
            if stopping.wait(0.02):
                break
        if stopping.is_set():
            if done % 10:
                save()
            sys.exit(ExitStatus.STOPPED)


def act(spec: JobSpec, stage: Stage) -> None:
    what = spec.metadata.get("act", "finish")
    if (only := spec.metadata.get("only")) is not None:
        if Path(only).exists():
            return
        Path(only).touch()
    match what:
        case "wait":
            wait(spec, stage)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            wait(spec, stage)
        case "train":
            train(spec, stage)
        case "fail":
            kind = FailureClass(spec.metadata["failure"])
            say(Failed(failure=kind, code=f"scripted_{kind}", message="It was in the script."))
            sys.exit(ExitStatus.FAILED)
        case "crash":
            sys.stderr.write("the last words of a dying engine\n")
            os.abort()
        case "garbage":
            sys.stdout.buffer.write(b'hello\n{"type":"unknown"}\n\xff\xfe\x00\n{"type":"note","level":"info"\n')
            say(Note(level="warn", message="a NUL \0 in a note"))


def work(spec: JobSpec, stage: Stage) -> StageFacts:
    folder = OUT / "stages" / stage
    is_there = folder.exists()
    if not is_there:
        say(StageStarted(stage=stage))
        if stage is Stage.TRAINING:
            act(spec, stage)
        part = OUT / f"{stage}.part"
        part.mkdir()
        (part / "state.bin").write_bytes(os.urandom(1000))
        part.rename(folder)
    say(StageFinished(stage=stage, wall_s=0.1, peak_memory_bytes=1, resumed=is_there))
    return StageFacts(stage=stage, wall_s=0.1, peak_memory_bytes=1, resumed=is_there)


def export(spec: JobSpec, stages: list[StageFacts]) -> None:
    folder = OUT / "artifacts"
    (folder / "native").mkdir(parents=True)
    (folder / "native" / "weights.bin").write_bytes(b"w" * 5000)
    (folder / "attempt.txt").write_text(OUT.parent.name)  # no two attempts make the same bundle
    seen = sorted(name for name in os.environ if name.startswith("BITSMITH_"))
    (folder / "environment.txt").write_text(repr(seen))
    given = sorted(path.name for path in INPUTS.rglob("*"))
    (folder / "inputs.txt").write_text(repr(given))
    if spec.evaluates is not None:
        (folder / EVALS).write_text(Evals(scores=[SCORE], items=[]).model_dump_json())
    if (INPUTS / ADJUSTMENTS_FILE).exists():
        shutil.copyfile(INPUTS / ADJUSTMENTS_FILE, folder / ADJUSTMENTS_FILE)
    manifest = Manifest(
        base_model=spec.model,
        spec_sha256=spec.sha256,
        files=describe_files(folder),
        quantization=QuantizationFacts(
            scheme="uniform", bpw_codes=4.0, bpw_effective=4.5, quantized_weights=1, float_weights=1,
            quantized_bytes=1, model_bytes=1, float_bytes=1, layers=[],
        ),
        training=None,
        stages=stages,
        scores=[] if spec.evaluates is None else [SCORE],
        environment=Environment(engine="scripted", torch="-", transformers="-", device=" ".join(given), seed=spec.seed),
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    if spec.metadata.get("act") == "lie":
        (folder / "native" / "weights.bin").write_bytes(b"x" * 5000)
    say(Finished(manifest_sha256=manifest.sha256))


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(ExitStatus.STOPPED))
    threading.Thread(target=die_with_the_supervisor, daemon=True).start()
    spec = JobSpec.model_validate_json(SPEC.read_text())
    export(spec, [work(spec, stage) for stage in STAGES])


main()
