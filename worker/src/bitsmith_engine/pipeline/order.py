"""One job: its stages in their order, each leaving a folder that the next reads, whether it was made now or earlier."""

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from bitsmith_core.bundle import MANIFEST, Environment, Manifest, StageFacts, describe_files
from bitsmith_core.spec import JobSpec, LoraSettings
from bitsmith_core.wire import Adjustments, CheckpointSaved, Stage, StageFinished, StageStarted

from bitsmith_engine.copies import Copies, check_equal_models
from bitsmith_engine.data.examples import Example, check_vocabulary, load_and_hold_out, load_examples
from bitsmith_engine.errors import BadSpec, DiskFull, OutOfSpace
from bitsmith_engine.evaluate.benchmarks import open_benchmarks
from bitsmith_engine.folders import replace_folder
from bitsmith_engine.joining import OnAlarm, joined_ranks
from bitsmith_engine.models.opening import Base, open_base
from bitsmith_engine.pipeline import adapters, evaluating, quantized
from bitsmith_engine.pipeline.job import Job, Method, Work
from bitsmith_engine.pipeline.observer import Emit, WireObserver
from bitsmith_engine.pipeline.ranks import follow, leading
from bitsmith_engine.pipeline.store import StageStore, run_key
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Ranks, Runtime, choose_runtime, peak_memory_bytes


def run(
    spec: JobSpec,
    inputs: Path,
    out: Path,
    emit: Emit,
    should_stop: Callable[[], bool],
    *,
    adjustments: Adjustments | None = None,
    environment: Mapping[str, str] | None = None,
    on_alarm: OnAlarm | None = None,
) -> Manifest | None:
    """Do what the spec asks for, skipping the stages that OUT already holds.

    Args:
        environment: as torchrun makes it for one of several processes: rank 0 does all stages and the others help it
            to train. Each machine has INPUTS, and an OUT of its own or the same. Without it the process is alone.
        on_alarm: hears that another of these processes failed while this one may wait for it.

    Returns:
        The manifest of OUT/artifacts; None on the ranks that helped.

    Raises:
        EngineError: of the class that decides about a retry.
    """
    environment = environment or {}
    runtime = choose_runtime(spec.settings.resources.device, local_rank=int(environment.get("LOCAL_RANK", "0")))
    joined = joined_ranks(environment, runtime.device, on_alarm=on_alarm, should_stop=should_stop)
    with joined as ranks, _lack_of_space(out):
        copies = Copies(ranks, out)
        if copies.are_needed:
            check_equal_models(ranks, inputs / "model")
        run = _Run(spec, inputs, out, runtime, ranks, copies, emit, should_stop, adjustments or Adjustments())
        if ranks.rank:
            run.help()
            return None
        return run.run()


@contextmanager
def _lack_of_space(out: Path) -> Iterator[None]:
    """What libraries raise for it is ours."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfSpace(
            f"the GPU's memory is full ({error}); set training.micro_batch_size lower, turn "
            "training.activation_checkpointing on, shorten max_length, or use a larger GPU"
        ) from error
    except MemoryError as error:
        raise OutOfSpace("the machine's memory is full; use a smaller base or a worker with more memory") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(f"the disk below {out} is full; free some space and run the job again") from error


class _Run:
    def __init__(
        self,
        spec: JobSpec,
        inputs: Path,
        out: Path,
        runtime: Runtime,
        ranks: Ranks,
        copies: Copies,
        emit: Emit,
        should_stop: Callable[[], bool],
        adjustments: Adjustments,
    ) -> None:
        self._spec, self._inputs, self._out = spec, inputs, out
        self._runtime, self._ranks, self._copies = runtime, ranks, copies
        self._emit, self._should_stop, self._adjustments = emit, should_stop, adjustments
        self._engine_version = version("bitsmith")
        self._store = StageStore(out / "stages", run_key(spec.sha256, self._engine_version))
        self._facts: list[StageFacts] = []

    def run(self) -> Manifest:
        with leading(self._ranks) as call_for_help:
            job = self._open()
            method = _method_of(self._spec)
            for stage, work in method.stages:
                self._stage(stage, job, work, call_for_help)
            return self._export(job, method)

    def help(self) -> None:
        """Train along whenever rank 0 does."""
        job = self._open()
        follow(self._ranks, lambda: quantized.train_codes(job, self._out, self._observer(Stage.TRAINING)))

    def _open(self) -> Job:
        torch.manual_seed(self._spec.seed)
        if self._ranks.size > 1 and self._spec.training is None:
            raise BadSpec(
                f"the method {self._spec.method.type} runs in one process; several (torchrun) help only to train qsft"
            )
        opening = self._observer(Stage.FETCHING)
        opening.note("info", f"computing on {self._runtime}" + (f", {self._ranks.size} ranks" * (self._ranks.size > 1)))
        is_evaluation = evaluating.is_evaluation(self._spec)
        base = evaluating.open_version(self._inputs) if is_evaluation else open_base(self._inputs / "model")
        examples, held_out = self._load_examples(base, opening)
        check_vocabulary([*examples, *held_out], base.config.vocab_size)
        return Job(
            spec=self._spec,
            inputs=self._inputs,
            base=base,
            examples=examples,
            held_out=held_out,
            benchmarks=open_benchmarks(self._spec.settings.evaluation.benchmarks, self._inputs / "packs"),
            runtime=self._runtime,
            ranks=self._ranks,
            copies=self._copies,
            store=self._store,
            adjustments=self._adjustments,
            on_checkpoint=self._announce_checkpoint,
        )

    def _load_examples(self, base: Base, observer: Observer) -> tuple[list[Example], list[Example]]:
        """(to train on, for scores)"""
        training, validation = (self._inputs / f"{name}.jsonl" for name in ("training", "validation"))
        length, seed = self._spec.max_length, self._spec.seed
        if evaluating.is_evaluation(self._spec):
            return [], evaluating.load_questions(self._spec, self._inputs, base, observer)
        if self._spec.validation_file is None:
            return load_and_hold_out(training, base.tokenizer, max_length=length, seed=seed, observer=observer)
        return (
            load_examples(training, base.tokenizer, max_length=length, observer=observer),
            load_examples(validation, base.tokenizer, max_length=length, observer=observer),
        )

    def _stage(self, stage: Stage, job: Job, work: Work, call_for_help: Callable[[], None]) -> None:
        """Have the stage's folder, from an earlier run or by doing the work into a new one."""
        earlier = self._store.finished(stage)
        if earlier is not None:
            self._announce(earlier.model_copy(update={"resumed": True}))
            return

        self._emit(StageStarted(stage=stage))
        started = time.monotonic()
        if stage == Stage.TRAINING:
            call_for_help()
        observer = self._observer(stage)
        with self._store.filling(stage) as folder:
            try:
                work(job, folder, observer)
            finally:
                observer.flush()  # at which step it ended, if it failed
            facts = self._stage_facts(stage, started)
            self._store.keep(folder, facts)
        self._announce(facts)

    def _export(self, job: Job, method: Method) -> Manifest:
        self._emit(StageStarted(stage=Stage.EXPORTING))
        started = time.monotonic()
        with self._store.filling(Stage.EXPORTING) as folder:
            exported = method.export(job, folder)
            facts = self._stage_facts(Stage.EXPORTING, started)
            manifest = Manifest(
                base_model=self._spec.model,
                spec_sha256=self._spec.sha256,
                files=describe_files(folder),
                quantization=exported.quantization,
                training=exported.training,
                stages=[*self._facts, facts],
                scores=exported.evals.scores,
                environment=Environment(
                    engine=self._engine_version,
                    torch=torch.__version__,
                    transformers=version("transformers"),
                    device=str(self._runtime),
                    seed=self._spec.seed,
                ),
            )
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            replace_folder(folder, self._out / "artifacts")
        self._announce(facts)
        return manifest

    def _observer(self, stage: Stage) -> WireObserver:
        return WireObserver(stage, self._emit, self._should_stop)

    def _stage_facts(self, stage: Stage, started: float) -> StageFacts:
        return StageFacts(
            stage=stage,
            wall_s=round(time.monotonic() - started, 3),
            peak_memory_bytes=peak_memory_bytes(self._runtime),
        )

    def _announce_checkpoint(self, stage: Stage, step: int, folder: Path, metrics: Mapping[str, float]) -> None:
        path = folder.relative_to(self._out).as_posix()
        self._emit(CheckpointSaved(stage=stage, step=step, path=path, metrics=dict(metrics)))

    def _announce(self, facts: StageFacts) -> None:
        self._facts.append(facts)
        self._emit(
            StageFinished(
                stage=Stage(facts.stage),
                wall_s=facts.wall_s,
                peak_memory_bytes=facts.peak_memory_bytes,
                resumed=facts.resumed,
            )
        )


def _method_of(spec: JobSpec) -> Method:
    if evaluating.is_evaluation(spec):
        return evaluating.method_of(spec)
    return adapters.method_of(spec) if isinstance(spec.settings, LoraSettings) else quantized.method_of(spec)
