"""The stages of the methods qsft and quantize.

    measuring -> searching -> quantizing -> calibrating -> training -> evaluating

A uniform width needs no measuring and searching, `distillation: null` no calibrating, and `quantize` no training.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from bitsmith_core.bundle import Subject
from bitsmith_core.spec import (
    ChannelMixQuantization,
    Distillation,
    JobSpec,
    LayerMixQuantization,
    QsftSettings,
    Quantization,
    QuantizeSettings,
    Training,
    UniformQuantization,
)
from bitsmith_core.wire import Stage
from torch import Tensor

from bitsmith_engine.calibrate.distil import distil, latent_reader, take_latents
from bitsmith_engine.calibrate.snapshots import Snapshots
from bitsmith_engine.calibrate.start import start_codes, start_weights, uniform_plans
from bitsmith_engine.calibrate.windows import calibration_windows
from bitsmith_engine.export.bundle import quantization_facts, write_bf16, write_native
from bitsmith_engine.models.opening import CausalLM, load_float
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.pipeline.job import (
    TRAINING_FILE,
    Exported,
    Job,
    Method,
    Work,
    evaluate_all,
    read_evals,
    read_training_facts,
)
from bitsmith_engine.ports import Observer
from bitsmith_engine.quant.plan import PLANS, Plans, fallback_notes
from bitsmith_engine.quant.storage import Parameters, Rest, load_parameters, load_rest, save_parameters, save_rest
from bitsmith_engine.search.allocate import allocate, allocate_bytes, plans_of_bits
from bitsmith_engine.search.bitmap import bit_map
from bitsmith_engine.search.channels import channel_plan
from bitsmith_engine.search.measuring import measure_into
from bitsmith_engine.search.rounding import Grid
from bitsmith_engine.search.sensitivity import (
    SENSITIVITY_FILE,
    choose_calibration,
    load_channels,
    load_sensitivity,
)
from bitsmith_engine.train.loop import plan_steps, train

_PLANS_FILE = "plans.json"
_BIT_MAP_FILE = "bits.svg"


def method_of(spec: JobSpec) -> Method:
    settings = _quantization(spec)
    stages: list[tuple[Stage, Work]] = []
    if not isinstance(settings, UniformQuantization):
        stages += [(Stage.MEASURING, measure), (Stage.SEARCHING, search)]
    stages.append((Stage.QUANTIZING, quantize))
    if settings.distillation is not None:
        stages.append((Stage.CALIBRATING, calibrate))
    if spec.training is not None:
        stages.append((Stage.TRAINING, train_codes))
    stages.append((Stage.EVALUATING, score))
    return Method(stages=tuple(stages), export=export)


def measure(job: Job, folder: Path, observer: Observer) -> None:
    settings = _quantization(job.spec)
    assert not isinstance(settings, UniformQuantization)
    measure_into(
        folder,
        job.base,
        choose_calibration(job.examples, settings.calibration_samples, seed=job.spec.seed),
        job.runtime,
        observer,
        widths=settings.widths,
        grid=Grid(group_size=settings.group_size, symmetric=settings.symmetric, clip_search=settings.clip_search),
        seed=job.spec.seed,
    )


def search(job: Job, folder: Path, observer: Observer) -> None:
    settings = _quantization(job.spec)
    measured = job.store.folder(Stage.MEASURING)
    found = load_sensitivity(measured)
    if isinstance(settings, ChannelMixQuantization):
        plans = channel_plan(
            found.units,
            load_channels(measured),
            bpw=settings.bpw,
            widths=settings.widths,
            group_size=settings.group_size,
            symmetric=settings.symmetric,
        )
    else:
        assert isinstance(settings, LayerMixQuantization)
        if settings.budget_bytes is not None:
            bits = allocate_bytes(found, budget_bytes=settings.budget_bytes, widths=settings.widths)
        else:
            assert settings.bpw is not None, "a spec has one budget"
            bits = allocate(found.units, bpw=settings.bpw, widths=settings.widths)
        plans = plans_of_bits(found.units, bits, group_size=settings.group_size, symmetric=settings.symmetric)
    (folder / _PLANS_FILE).write_bytes(PLANS.dump_json(plans))
    budget = f"{settings.bpw} bits per weight" if settings.bpw is not None else f"{settings.budget_bytes} bytes"
    title = f"{job.spec.model_name}: {settings.scheme} at {budget}"
    (folder / _BIT_MAP_FILE).write_text(bit_map(found.units, plans, title=title))


def quantize(job: Job, folder: Path, observer: Observer) -> None:
    settings = _quantization(job.spec)
    parameters, rest = start_codes(
        job.base,
        _plans(job),
        _windows(job),
        settings.initial,
        job.runtime,
        observer,
        clip_search=settings.clip_search,
    )
    for message in fallback_notes(parameters, group_size=settings.group_size):
        observer.note("info", message)
    _save(parameters, rest, folder)


def calibrate(job: Job, folder: Path, observer: Observer) -> None:
    settings = _quantization(job.spec).distillation
    assert settings is not None
    parameters, rest = _load(job, Stage.QUANTIZING)
    scratch = job.store.scratch(Stage.CALIBRATING)
    run = scratch / "run"
    _save(
        *distil(
            job.base,
            parameters,
            rest,
            _windows(job),
            settings,
            job.runtime,
            observer,
            seed=job.spec.seed,
            folder=run,
            snapshots=Snapshots(scratch, partial(job.on_checkpoint, Stage.CALIBRATING)),
        ),
        folder,
    )
    if job.spec.training is not None:
        take_latents(run, folder)


def train_codes(job: Job, folder: Path, observer: Observer) -> None:
    training = _adjusted(job)
    start = _start(job.spec)
    job.copies.spread(job.store.folder(start))
    parameters, rest = _load(job, start)
    plan = plan_steps(job.examples, training, seed=job.spec.seed)
    optimizer = DiodeMix(
        parameters,
        training.optimizer,
        Schedule(steps=len(plan), warmup_fraction=training.warmup_fraction),
        seed=job.spec.seed,
        float_weight=_float_weights(job, parameters),
        ranks=job.ranks,
    )
    model = load_quantized(job.base, parameters, job.runtime, rest)
    floats = _trainable_floats(model) if training.optimizer.float_learning_rate else {}
    optimizer.rate_scale = job.adjustments.step_factor
    facts = train(
        model,
        optimizer,
        job.examples,
        plan,
        training,
        job.runtime,
        observer,
        held_out=job.held_out if training.early_stopping else (),
        checkpoints=job.store.scratch(Stage.TRAINING),
        floats=tuple(floats.values()),
        float_learning_rate=training.optimizer.float_learning_rate,
        ranks=job.ranks,
        copies=job.copies,
        on_checkpoint=partial(job.on_checkpoint, Stage.TRAINING),
    )
    if job.ranks.rank == 0:
        _save(parameters, rest | {name: tensor.detach().cpu() for name, tensor in floats.items()}, folder)
        (folder / TRAINING_FILE).write_text(facts.model_dump_json(indent=1))


def score(job: Job, folder: Path, observer: Observer) -> None:
    subjects: list[tuple[Subject, Callable[[], CausalLM]]] = [
        ("float", lambda: load_float(job.base, job.runtime)),
        ("quantized", lambda: _load_model(job, _start(job.spec))),
    ]
    if job.spec.training is not None:
        subjects.append(("qsft", lambda: _load_model(job, Stage.TRAINING)))
    evaluate_all(job, subjects, folder, observer)


def export(job: Job, folder: Path) -> Exported:
    settings = _settings(job.spec)
    stage = _start(job.spec) if job.spec.training is None else Stage.TRAINING
    kept = job.store.folder(stage)
    parameters, rest = load_parameters(kept, torch.device("cpu")), load_rest(kept)
    evals = read_evals(job)
    model_bytes = write_native(job.base, parameters, rest, evals, folder)
    if "bf16" in settings.exports:
        write_bf16(job.base, parameters, rest, folder / "bf16")
    for file in _search_results(job):
        shutil.copyfile(file, folder / file.name)
    return Exported(
        quantization=quantization_facts(
            job.base,
            parameters,
            _gain_of_layer(job),
            fallback_notes(parameters, group_size=settings.quantization.group_size),
            scheme=settings.quantization.scheme,
            model_bytes=model_bytes,
        ),
        training=None if job.spec.training is None else read_training_facts(job),
        evals=evals,
    )


def _adjusted(job: Job) -> Training:
    """The training settings, as an earlier failure made them."""
    training, changes = job.spec.training, job.adjustments
    assert training is not None
    budget = training.optimizer.flip_budget * changes.step_factor
    return training.model_copy(
        update={
            "micro_batch_size": changes.micro_batch_size or training.micro_batch_size,
            "optimizer": training.optimizer.model_copy(update={"flip_budget": budget}),
        }
    )


def _settings(spec: JobSpec) -> QsftSettings | QuantizeSettings:
    assert isinstance(spec.settings, QsftSettings | QuantizeSettings), "other methods have stages of their own"
    return spec.settings


def _quantization(spec: JobSpec) -> Quantization:
    return _settings(spec).quantization


def _start(spec: JobSpec) -> Stage:
    """The stage whose codes training starts from."""
    return Stage.QUANTIZING if _quantization(spec).distillation is None else Stage.CALIBRATING


def _plans(job: Job) -> Plans:
    settings = _quantization(job.spec)
    if not isinstance(settings, UniformQuantization):
        return PLANS.validate_json((job.store.folder(Stage.SEARCHING) / _PLANS_FILE).read_bytes())
    return uniform_plans(job.base, settings.bits, group_size=settings.group_size, symmetric=settings.symmetric)


def _windows(job: Job) -> Tensor:
    settings = _quantization(job.spec).distillation or Distillation()
    return calibration_windows(job.examples, samples=settings.samples, length=settings.max_length, seed=job.spec.seed)


def _float_weights(job: Job, parameters: Parameters) -> Callable[[str], Tensor]:
    """What the codes stand for: the latent weights of calibration, or what the first codes were rounded from."""
    latent = latent_reader(job.store.folder(_start(job.spec)))
    return latent or start_weights(job.base, parameters, _quantization(job.spec).initial)


def _trainable_floats(model: CausalLM) -> dict[str, torch.nn.Parameter]:
    """Norms and biases: vectors that stay in 16 bit, so that training them costs no byte of the checkpoint."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim == 1}


def _load_model(job: Job, stage: Stage) -> CausalLM:
    parameters, rest = _load(job, stage)
    return load_quantized(job.base, parameters, job.runtime, rest)


def _load(job: Job, stage: Stage) -> tuple[Parameters, Rest]:
    folder = job.store.folder(stage)
    return load_parameters(folder, job.runtime.device), load_rest(folder)


def _save(parameters: Parameters, rest: Rest, folder: Path) -> None:
    save_parameters(parameters, folder)
    save_rest(rest, folder)


def _gain_of_layer(job: Job) -> dict[str, float]:
    if isinstance(_quantization(job.spec), UniformQuantization):
        return {}
    return {
        layer.name: unit.gain
        for unit in load_sensitivity(job.store.folder(Stage.MEASURING)).units
        for layer in unit.layers
    }


def _search_results(job: Job) -> Iterator[Path]:
    """What the registry shows of the search, and what another search re-uses."""
    if isinstance(_quantization(job.spec), UniformQuantization):
        return
    yield job.store.folder(Stage.MEASURING) / SENSITIVITY_FILE
    yield job.store.folder(Stage.SEARCHING) / _BIT_MAP_FILE
