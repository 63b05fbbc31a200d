"""What every stage of a job works with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bitsmith_core.bundle import EVALS, Evals, QuantizationFacts, Subject, TrainingFacts
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Adjustments, Stage

from bitsmith_engine.copies import Copies
from bitsmith_engine.data.examples import Example
from bitsmith_engine.evaluate.packs import Benchmark
from bitsmith_engine.evaluate.plan import make_plan
from bitsmith_engine.evaluate.suite import evaluate
from bitsmith_engine.models.opening import Base, CausalLM
from bitsmith_engine.pipeline.store import StageStore
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Ranks, Runtime

TRAINING_FILE = "training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    spec: JobSpec
    inputs: Path
    base: Base
    examples: list[Example]
    held_out: list[Example]
    benchmarks: tuple[Benchmark, ...]
    runtime: Runtime
    ranks: Ranks
    copies: Copies
    store: StageStore
    adjustments: Adjustments
    on_checkpoint: Callable[[Stage, int, Path, Mapping[str, float]], None]
    """Hears of each folder below OUT that a later attempt can go on from: the stage's steps done, what was measured."""


Work = Callable[[Job, Path, Observer], None]
"""Fills the stage's folder from those of earlier stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The facts of a written bundle."""

    quantization: QuantizationFacts | None
    training: TrainingFacts | None
    evals: Evals


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The stages of one method in their order, and how its bundle is written."""

    stages: tuple[tuple[Stage, Work], ...]
    export: Callable[[Job, Path], Exported]


def evaluate_all(
    job: Job, subjects: list[tuple[Subject, Callable[[], CausalLM]]], folder: Path, observer: Observer
) -> None:
    """Score models one after the other on the same plan; each is loaded when its turn comes."""
    settings = job.spec.settings.evaluation
    plan = make_plan(
        job.held_out,
        settings if job.held_out else settings.model_copy(update={"multiple_choice": None}),
        seed=job.spec.seed,
        observer=observer,
        benchmarks=job.benchmarks,
    )
    evals = Evals(scores=[], items=[])
    for part, (subject, load) in enumerate(subjects):
        scores, items = evaluate(
            load(), job.base.tokenizer, subject, plan, job.runtime, observer, part=part, parts=len(subjects)
        )
        evals = Evals(scores=[*evals.scores, *scores], items=[*evals.items, items])
    (folder / EVALS).write_text(evals.model_dump_json())


def read_evals(job: Job) -> Evals:
    return Evals.model_validate_json((job.store.folder(Stage.EVALUATING) / EVALS).read_bytes())


def read_training_facts(job: Job) -> TrainingFacts:
    return TrainingFacts.model_validate_json((job.store.folder(Stage.TRAINING) / TRAINING_FILE).read_bytes())
