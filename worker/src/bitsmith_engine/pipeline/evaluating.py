"""The one stage of the method evaluate: a version as it was published, scored again.

    evaluating

The model is loaded from INPUTS/version, a bundle with its manifest.json, and its tokenizer asks for both models. The
bundle that comes of it holds evals.json alone.
"""

from collections.abc import Callable
from pathlib import Path

from bitsmith_core.bundle import EVALS, MANIFEST, Manifest, Subject
from bitsmith_core.spec import EvaluateMethod, JobSpec
from bitsmith_core.wire import Stage
from pydantic import ValidationError

from bitsmith_engine.data.examples import Example, load_examples
from bitsmith_engine.errors import BadModel
from bitsmith_engine.export.bundle import MODEL_FILE
from bitsmith_engine.models.opening import Base, CausalLM, load_float, open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.pipeline.job import Exported, Job, Method, evaluate_all, read_evals
from bitsmith_engine.ports import Observer
from bitsmith_engine.quant.storage import load_parameters

_MERGED = "bf16"


def method_of(spec: JobSpec) -> Method:
    return Method(stages=((Stage.EVALUATING, score),), export=export)


def open_version(inputs: Path) -> Base:
    """Configuration, tokenizer and float weights of the version.

    Raises:
        BadModel: there is none.
    """
    return open_base(_weights(inputs / "version"))


def load_questions(spec: JobSpec, inputs: Path, base: Base, observer: Observer) -> list[Example]:
    """What perplexity and multiple choice are measured on; none without a validation file."""
    if spec.validation_file is None:
        return []
    return load_examples(inputs / "validation.jsonl", base.tokenizer, max_length=spec.max_length, observer=observer)


def score(job: Job, folder: Path, observer: Observer) -> None:
    subjects: list[tuple[Subject, Callable[[], CausalLM]]] = []
    if job.spec.needs_base:
        subjects.append(("float", lambda: load_float(open_base(job.inputs / "model"), job.runtime)))
    subjects.append((_manifest(job.inputs / "version").subject, lambda: _load(job)))
    evaluate_all(job, subjects, folder, observer)


def export(job: Job, folder: Path) -> Exported:
    evals = read_evals(job)
    (folder / EVALS).write_text(evals.model_dump_json(indent=1))
    return Exported(quantization=None, training=None, evals=evals)


def is_evaluation(spec: JobSpec) -> bool:
    return isinstance(spec.method, EvaluateMethod)


def _load(job: Job) -> CausalLM:
    version = job.inputs / "version"
    if _manifest(version).quantization is None:
        return load_float(job.base, job.runtime)
    parameters = load_parameters(version, job.runtime.device, weights_file=MODEL_FILE)
    return load_quantized(job.base, parameters, job.runtime)


def _weights(version: Path) -> Path:
    return version if _manifest(version).quantization is not None else version / _MERGED


def _manifest(version: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((version / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise BadModel(f"the version to be evaluated has no readable {MANIFEST}: {error}") from error
