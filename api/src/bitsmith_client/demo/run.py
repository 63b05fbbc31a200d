"""The demo: data up, job in, live progress, a table of what was gained, the checkpoint down and verified."""

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console

from bitsmith_client import show
from bitsmith_client.demo import dataset, inputs
from bitsmith_client.demo.inputs import Json
from bitsmith_client.lab.stack import Stack
from bitsmith_client.lab.state import LabConfig, LabState
from bitsmith_client.sdk import ApiError, Bitsmith, Event, Job, Score, SdkError, StageFacts, Version
from bitsmith_client.watch import watch

MODEL_KNOWN_WITHIN_S = 30.0  # workers say every few seconds which models they have


class DemoFailed(Exception):
    pass


def run(state: LabState, *, small: bool, keep: bool, console: Console) -> bool:
    """Everything; answers whether Q-SFT improved on plain quantization.

    Uses the lab that runs on `state`, or runs one meanwhile (with `keep` until Ctrl-C).

    Raises:
        DemoFailed: saying why, and where the logs are.
        StartFailed: the lab did not start.
    """
    began = time.monotonic()
    with ExitStack() as lab:
        try:
            spec = inputs.load_spec()
            spec = inputs.smaller(spec) if small else spec
            state.prepare()
            inputs.provide_model(spec, state.models)
        except inputs.InputMissing as error:
            raise DemoFailed(str(error)) from error

        config = state.load() if state.is_running() else None
        is_ours = config is None
        if config is None:
            config = lab.enter_context(Stack(state, say=lambda line: _say(console, line))).config
        _say(console, f"the platform runs at {config.url}; logs in {state.logs}")

        try:
            with Bitsmith(config.url, config.api_key) as bitsmith:
                version = _published(bitsmith, spec, state.folder / "demo", console)
                _show(bitsmith, version, console)
                _download(bitsmith, version, state.folder / "demo" / f"{version.model}-{version.version}", console)
        except (SdkError, DemoFailed) as error:
            raise DemoFailed(f"{error}; logs: {state.logs}") from error
        is_better, verdict = judge(version.scores)
        _say(console, verdict)
        _say(console, f"the demo took {show.duration(time.monotonic() - began)} in all")

        if keep and is_ours:
            _wait_for_ctrl_c(config, console)
    return is_better


def _published(bitsmith: Bitsmith, spec: Json, folder: Path, console: Console) -> Version:
    counts = dataset.build(folder)
    _say(console, f"data: {counts.training:,} training and {counts.validation:,} validation examples")
    training = bitsmith.files.upload(folder / "training.jsonl")
    validation = bitsmith.files.upload(folder / "validation.jsonl")
    job = _submitted(bitsmith, {**spec, "training_file": training.id, "validation_file": validation.id})
    _say(console, f"job: {job.id}\n")

    try:
        job = watch(bitsmith, job.id, console)
    except KeyboardInterrupt:  # otherwise the next demo would wait for this one's job
        with suppress(SdkError):
            bitsmith.jobs.cancel(job.id)
        raise
    if job.status != "succeeded" or job.fine_tuned_model is None:
        reason = job.error or job.status_reason
        raise DemoFailed(f"{job.id} {job.status}: {reason.message if reason else 'no reason was given'}")
    name, _, number = job.fine_tuned_model.partition("@")
    return bitsmith.models.version(name, int(number))


def _submitted(bitsmith: Bitsmith, spec: Json) -> Job:
    deadline = time.monotonic() + MODEL_KNOWN_WITHIN_S
    while True:
        try:
            return bitsmith.jobs.create(spec)
        except ApiError as error:
            is_unknown_model = any(problem.pointer == "/model" for problem in error.problems)
            if not is_unknown_model or time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def _show(bitsmith: Bitsmith, version: Version, console: Console) -> None:
    stages = stages_of(bitsmith.jobs.events(version.job_id))
    job = bitsmith.jobs.get(version.job_id)
    console.print()
    console.print(show.scores_table(version))
    console.print()
    console.print(show.stages_table(stages))
    if job.started_at and job.finished_at:
        took_s = (job.finished_at - job.started_at).total_seconds()
        _say(
            console,
            f"\nthe job took {show.duration(took_s)}, {show.duration(sum(s.wall_s for s in stages))} in its stages",
        )
    _say(console, f"registry: {bitsmith.base_url}{bitsmith.models.version_path(version.model, version.version)}")


def stages_of(events: Sequence[Event]) -> list[StageFacts]:
    """What each stage took, the worker's own included."""
    return [StageFacts.model_validate(event.data) for event in events if event.name == "stage.finished"]


def judge(scores: Sequence[Score]) -> tuple[bool, str]:
    """Whether training inside the quantized space paid, on data that nothing was trained on."""
    perplexity = {score.subject: score for score in scores if score.metric == "perplexity"}
    before, after = perplexity["quantized"], perplexity["qsft"]
    if before.comparable_key != after.comparable_key:
        return False, "the perplexities were not measured on the same data; they cannot be compared"
    change = f"from {show.score(before)} to {show.score(after)} on the same examples"
    if after.value < before.value:
        return True, f"Q-SFT beats plain quantization: validation perplexity went down {change}"
    return False, f"Q-SFT did NOT beat plain quantization: validation perplexity went {change}"


def _download(bitsmith: Bitsmith, version: Version, folder: Path, console: Console) -> None:
    """The native checkpoint, through presigned links."""
    paths = bitsmith.models.download(version, folder, wanted=lambda path: not path.startswith("bf16/"))
    total_bytes = sum(path.stat().st_size for path in paths)
    _say(console, f"downloaded {len(paths)} files, {show.size(total_bytes)}, each SHA-256 verified: {folder}")


def _wait_for_ctrl_c(config: LabConfig, console: Console) -> None:
    _say(console, f"the platform keeps running at {config.url}; Ctrl-C stops it")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
