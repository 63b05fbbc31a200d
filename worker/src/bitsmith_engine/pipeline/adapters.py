"""The stages of the methods lora and qlora.

    training -> evaluating

The bundle: adapter/ in peft's format, and bf16/, the float base with the adapter merged into it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from bitsmith_core.bundle import Subject
from bitsmith_core.spec import JobSpec, LoraSettings, QloraMethod
from bitsmith_core.wire import Stage

from bitsmith_engine.export.bundle import write_merged
from bitsmith_engine.models.opening import CausalLM, load_float
from bitsmith_engine.pipeline.job import (
    TRAINING_FILE,
    Exported,
    Job,
    Method,
    evaluate_all,
    read_evals,
    read_training_facts,
)
from bitsmith_engine.ports import Observer
from bitsmith_engine.train.adapters import load_for_evaluation, load_nf4, merged_tensors, save_adapter, train_adapter
from bitsmith_engine.train.loop import plan_steps

_ADAPTER = "adapter"


def method_of(spec: JobSpec) -> Method:
    return Method(stages=((Stage.TRAINING, train), (Stage.EVALUATING, score)), export=export)


def train(job: Job, folder: Path, observer: Observer) -> None:
    training = _settings(job.spec).training
    changed = {"micro_batch_size": job.adjustments.micro_batch_size or training.micro_batch_size}
    result = train_adapter(
        job.base,
        training.model_copy(update=changed),
        nf4=_is_nf4(job.spec),
        examples=job.examples,
        plan=plan_steps(job.examples, training, seed=job.spec.seed),
        runtime=job.runtime,
        observer=observer,
        seed=job.spec.seed,
        held_out=job.held_out,
        checkpoints=job.store.scratch(Stage.TRAINING),
        on_checkpoint=partial(job.on_checkpoint, Stage.TRAINING),
    )
    (folder / _ADAPTER).mkdir()
    save_adapter(result, folder / _ADAPTER)
    (folder / TRAINING_FILE).write_text(result.facts.model_dump_json(indent=1))


def score(job: Job, folder: Path, observer: Observer) -> None:
    trained: Subject = "qlora" if _is_nf4(job.spec) else "lora"
    subjects: list[tuple[Subject, Callable[[], CausalLM]]] = [("float", lambda: load_float(job.base, job.runtime))]
    if _is_nf4(job.spec):
        subjects.append(("quantized", lambda: load_nf4(job.base, job.runtime)))
    subjects.append(
        (
            trained,
            lambda: load_for_evaluation(job.base, _adapter(job), nf4=_is_nf4(job.spec), runtime=job.runtime),
        )
    )
    evaluate_all(job, subjects, folder, observer)


def export(job: Job, folder: Path) -> Exported:
    evals = read_evals(job)
    write_merged(job.base, merged_tensors(job.base, _adapter(job)), _adapter(job), evals, folder)
    return Exported(quantization=None, training=read_training_facts(job), evals=evals)


def _settings(spec: JobSpec) -> LoraSettings:
    assert isinstance(spec.settings, LoraSettings)
    return spec.settings


def _is_nf4(spec: JobSpec) -> bool:
    return isinstance(spec.method, QloraMethod)


def _adapter(job: Job) -> Path:
    return job.store.folder(Stage.TRAINING) / _ADAPTER
