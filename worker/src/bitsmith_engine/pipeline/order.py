"""The order of stages, known here only. Each leaves a folder; the next reads it, whether it was made now or earlier.

    measuring -> searching -> quantizing -> training -> evaluating -> exporting

A uniform width needs no measuring and searching; the method `quantize` needs no training.
"""

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from bitsmith_core.bundle import MANIFEST, Environment, Manifest, StageFacts, Subject, TrainingFacts, describe_files
from bitsmith_core.spec import JobSpec, LayerMixQuantization, Training
from bitsmith_core.wire import Stage, StageFinished, StageStarted
from pydantic import TypeAdapter

from bitsmith_engine.data.examples import Example, load_examples
from bitsmith_engine.evaluate.plan import make_plan
from bitsmith_engine.evaluate.suite import Evals, evaluate
from bitsmith_engine.export.bundle import quantization_facts, write_bf16, write_native
from bitsmith_engine.models.architecture import units
from bitsmith_engine.models.opening import Base, CausalLM, load_float, open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.pipeline.observer import Emit, WireObserver
from bitsmith_engine.pipeline.store import StageStore, replace_folder, run_key
from bitsmith_engine.quant.initial import fallback_notes, quantize_layers
from bitsmith_engine.quant.storage import load_parameters, save_parameters
from bitsmith_engine.runtime import Runtime, choose_runtime, peak_memory_bytes
from bitsmith_engine.search.allocate import allocate
from bitsmith_engine.search.sensitivity import UnitSensitivity, choose_calibration, measure
from bitsmith_engine.train.loop import plan_steps, train

_SENSITIVITY_FILE = "sensitivity.json"
_BITS_FILE = "bits.json"
_TRAINING_FILE = "training.json"
_EVALS_FILE = "evals.json"

_SENSITIVITIES = TypeAdapter(list[UnitSensitivity])
_BITS = TypeAdapter(dict[str, int])


def run(spec: JobSpec, inputs: Path, out: Path, emit: Emit, should_stop: Callable[[], bool]) -> Manifest:
    """Do what the spec asks for, skipping the stages that OUT already holds. Returns the manifest of OUT/artifacts.

    Raises:
        EngineError: of the class that decides about a retry.
    """
    return _Run(spec, inputs, out, emit, should_stop).run()


class _Run:
    def __init__(self, spec: JobSpec, inputs: Path, out: Path, emit: Emit, should_stop: Callable[[], bool]) -> None:
        self._spec, self._inputs, self._out = spec, inputs, out
        self._emit, self._should_stop = emit, should_stop
        self._runtime: Runtime = choose_runtime(spec.settings.resources.device)
        self._engine_version = version("bitsmith")
        self._store = StageStore(out / "stages", run_key(spec.sha256, self._engine_version))
        self._facts: list[StageFacts] = []

    def run(self) -> Manifest:
        torch.manual_seed(self._spec.seed)
        opening = self._observer(Stage.FETCHING)
        opening.note("info", f"computing on {self._runtime}")
        base = open_base(self._inputs / "model")
        examples, held_out = (
            load_examples(
                self._inputs / f"{name}.jsonl", base.tokenizer, max_length=self._spec.max_length, observer=opening
            )
            for name in ("training", "validation")
        )

        if isinstance(self._spec.settings.quantization, LayerMixQuantization):
            self._stage(Stage.MEASURING, lambda folder, observer: self._measure(base, examples, folder, observer))
            self._stage(Stage.SEARCHING, lambda folder, observer: self._search(folder))
        self._stage(Stage.QUANTIZING, lambda folder, observer: self._quantize(base, folder, observer))
        training = self._spec.training
        if training is not None:
            self._stage(
                Stage.TRAINING, lambda folder, observer: self._train(base, examples, training, folder, observer)
            )
        self._stage(Stage.EVALUATING, lambda folder, observer: self._evaluate(base, held_out, folder, observer))
        return self._export(base)

    def _stage(self, stage: Stage, work: Callable[[Path, WireObserver], None]) -> None:
        """Have the stage's folder, from an earlier run or by doing the work into a new one."""
        earlier = self._store.finished(stage)
        if earlier is not None:
            self._announce(earlier.model_copy(update={"resumed": True}))
            return

        self._emit(StageStarted(stage=stage))
        started = time.monotonic()
        with self._store.filling(stage) as folder:
            work(folder, self._observer(stage))
            facts = self._stage_facts(stage, started)
            self._store.keep(folder, facts)
        self._announce(facts)

    def _measure(self, base: Base, examples: list[Example], folder: Path, observer: WireObserver) -> None:
        settings = self._spec.settings.quantization
        assert isinstance(settings, LayerMixQuantization)
        calibration = choose_calibration(examples, settings.calibration_samples, seed=self._spec.seed)
        tokens = sum(len(example.ids) for example in calibration)
        observer.note("info", f"measuring on {len(calibration)} training examples, {tokens} tokens")
        model = load_float(base, self._runtime)
        found = measure(
            model, list(units(base.config)), calibration, self._runtime, observer, clip_search=settings.clip_search
        )
        (folder / _SENSITIVITY_FILE).write_bytes(_SENSITIVITIES.dump_json(found, indent=1))

    def _search(self, folder: Path) -> None:
        settings = self._spec.settings.quantization
        assert isinstance(settings, LayerMixQuantization)
        found = self._read_sensitivities()
        gains = {unit.name: unit.gain for unit in found}
        weights = {unit.name: unit.weights for unit in found}
        (folder / _BITS_FILE).write_bytes(_BITS.dump_json(allocate(gains, weights, bpw=settings.bpw), indent=1))

    def _quantize(self, base: Base, folder: Path, observer: WireObserver) -> None:
        settings = self._spec.settings.quantization
        if isinstance(settings, LayerMixQuantization):
            bits_of_unit = _BITS.validate_json((self._store.folder(Stage.SEARCHING) / _BITS_FILE).read_bytes())
        else:
            bits_of_unit = {unit.name: settings.bits for unit in units(base.config)}
        bits = {name: bits_of_unit[unit.name] for unit in units(base.config) for name in unit.layers}
        parameters = quantize_layers(
            bits, _float_reader(base), self._runtime.device, observer, clip_search=settings.clip_search
        )
        for message in fallback_notes(parameters):
            observer.note("info", message)
        save_parameters(parameters, folder)

    def _train(
        self, base: Base, examples: list[Example], training: Training, folder: Path, observer: WireObserver
    ) -> None:
        parameters = load_parameters(self._store.folder(Stage.QUANTIZING), self._runtime.device)
        plan = plan_steps(examples, training, seed=self._spec.seed)
        optimizer = DiodeMix(
            parameters,
            training.optimizer,
            Schedule(steps=len(plan), warmup_fraction=training.warmup_fraction),
            seed=self._spec.seed,
            float_weight=_float_reader(base),
        )
        model = load_quantized(base, parameters, self._runtime)
        facts = train(model, optimizer, examples, plan, training, self._runtime, observer)
        save_parameters(parameters, folder)
        (folder / _TRAINING_FILE).write_text(facts.model_dump_json(indent=1))

    def _evaluate(self, base: Base, held_out: list[Example], folder: Path, observer: WireObserver) -> None:
        plan = make_plan(held_out, self._spec.settings.evaluation, seed=self._spec.seed, observer=observer)
        subjects: list[tuple[Subject, Callable[[], CausalLM]]] = [
            ("float", lambda: load_float(base, self._runtime)),
            ("quantized", lambda: self._load_stage(base, Stage.QUANTIZING)),
        ]
        if self._spec.training is not None:
            subjects.append(("qsft", lambda: self._load_stage(base, Stage.TRAINING)))

        evals = Evals(scores=[], items=[])
        for part, (subject, load) in enumerate(subjects):
            scores, items = evaluate(load(), subject, plan, self._runtime, observer, part=part, parts=len(subjects))
            evals = Evals(scores=[*evals.scores, *scores], items=[*evals.items, items])
        (folder / _EVALS_FILE).write_text(evals.model_dump_json())

    def _export(self, base: Base) -> Manifest:
        self._emit(StageStarted(stage=Stage.EXPORTING))
        started = time.monotonic()
        final = Stage.QUANTIZING if self._spec.training is None else Stage.TRAINING
        parameters = load_parameters(self._store.folder(final), torch.device("cpu"))
        evals = Evals.model_validate_json((self._store.folder(Stage.EVALUATING) / _EVALS_FILE).read_bytes())
        with self._store.filling(Stage.EXPORTING) as folder:
            model_bytes = write_native(base, parameters, evals, folder)
            if "bf16" in self._spec.settings.exports:
                write_bf16(base, parameters, folder / "bf16")
            facts = self._stage_facts(Stage.EXPORTING, started)
            manifest = Manifest(
                base_model=self._spec.model,
                spec_sha256=self._spec.sha256,
                files=describe_files(folder),
                quantization=quantization_facts(
                    base,
                    parameters,
                    self._gain_of_layer(base),
                    fallback_notes(parameters),
                    scheme=self._spec.settings.quantization.scheme,
                    model_bytes=model_bytes,
                ),
                training=self._read_training_facts(),
                stages=[*self._facts, facts],
                scores=evals.scores,
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

    def _load_stage(self, base: Base, stage: Stage) -> CausalLM:
        parameters = load_parameters(self._store.folder(stage), self._runtime.device)
        return load_quantized(base, parameters, self._runtime)

    def _read_sensitivities(self) -> list[UnitSensitivity]:
        return _SENSITIVITIES.validate_json((self._store.folder(Stage.MEASURING) / _SENSITIVITY_FILE).read_bytes())

    def _gain_of_layer(self, base: Base) -> dict[str, float]:
        if not isinstance(self._spec.settings.quantization, LayerMixQuantization):
            return {}
        gains = {unit.name: unit.gain for unit in self._read_sensitivities()}
        return {name: gains[unit.name] for unit in units(base.config) for name in unit.layers}

    def _read_training_facts(self) -> TrainingFacts | None:
        if self._spec.training is None:
            return None
        return TrainingFacts.model_validate_json((self._store.folder(Stage.TRAINING) / _TRAINING_FILE).read_bytes())

    def _observer(self, stage: Stage) -> WireObserver:
        return WireObserver(stage, self._emit, self._should_stop)

    def _stage_facts(self, stage: Stage, started: float) -> StageFacts:
        return StageFacts(
            stage=stage,
            wall_s=round(time.monotonic() - started, 3),
            peak_memory_bytes=peak_memory_bytes(self._runtime),
        )

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


def _float_reader(base: Base) -> Callable[[str], torch.Tensor]:
    return lambda name: base.weights.get(f"{name}.weight")
