"""What a request would become: the job's spec, whether it would be taken, and what it would need."""

from bitsmith_core import estimate, jobs, pools, registry
from bitsmith_core.db import Tx
from bitsmith_core.errors import InvalidSpec, NotFound, Problem
from bitsmith_core.estimate import DataFacts, Device, Estimate, ModelFacts, WorkerFacts
from bitsmith_core.ids import FileId, ProjectId
from bitsmith_core.registry import evals
from bitsmith_core.spec import EvaluateMethod, JobRequest, JobSpec

from bitsmith_api.schemas.jobs import DryRun, DryRunProblem, Estimated, MemoryPart, StageEstimate


def decided(tx: Tx, request: JobRequest, *, project: ProjectId) -> JobSpec:
    """The job that is asked for, every "auto" decided from the training file, a version by its number.

    Raises:
        InvalidSpec: there is no version to evaluate.
    """
    if isinstance(request.method, EvaluateMethod):
        return _evaluation(tx, request, request.method.evaluate.version, project)
    if not request.is_supervised or request.training_file is None:
        return request.spec(examples=0)
    examples, _ = jobs.queries.examples_in(tx, FileId(request.training_file), project=project)
    return request.spec(examples=examples)


def _evaluation(tx: Tx, request: JobRequest, reference: str, project: ProjectId) -> JobSpec:
    try:
        version = evals.resolve(tx, reference, project=project, is_own=True)
    except NotFound as error:
        problem = Problem(pointer="/method/evaluate/version", code="unknown_version", detail=str(error))
        raise InvalidSpec(problem.detail, [problem]) from error
    if request.model not in (None, version.base_model):
        detail = f"{version.name} was made from {version.base_model}, not from {request.model}; leave the model out"
        raise InvalidSpec(detail, [Problem(pointer="/model", code="other_base", detail=detail)])
    return request.evaluation(version=version.name, base_model=version.base_model)


def dry_run(tx: Tx, request: JobRequest, *, project: ProjectId) -> DryRun:
    spec = decided(tx, request, project=project)
    worker = _worker(tx, spec, project)
    found = _estimate(tx, spec, worker, project)
    warnings = list(found.warnings) if found else [f"nothing is known of the size of {spec.model}, so no estimate"]
    if (obstacle := pools.absent(spec.pool, jobs.workers.live_pools(tx))) is not None:
        warnings.append(f"the job would wait: {obstacle}")
    return DryRun(
        spec=spec,
        priority=request.priority,
        estimate=None if found is None else _rendered(found, worker),
        warnings=warnings,
        errors=_errors(tx, spec, project),
    )


def _errors(tx: Tx, spec: JobSpec, project: ProjectId) -> list[DryRunProblem]:
    try:
        jobs.check(tx, spec, project=project)
    except InvalidSpec as error:
        return [DryRunProblem(pointer=p.pointer, code=p.code, detail=p.detail) for p in error.problems]
    return []


def _estimate(tx: Tx, spec: JobSpec, worker: WorkerFacts, project: ProjectId) -> Estimate | None:
    model = _model(tx, spec.model, project)
    if model is None:
        return None
    data = spec.training_file or spec.validation_file
    examples, size_bytes = (0, 0) if data is None else jobs.queries.examples_in(tx, FileId(data), project=project)
    return estimate.estimate(spec, model, DataFacts(examples=examples, bytes=size_bytes), worker)


def _model(tx: Tx, base_model: str, project: ProjectId) -> ModelFacts | None:
    known = registry.facts_of_base(tx, base_model, project=project)
    if known is not None:
        return estimate.facts_of(known) or estimate.guess_model(known.quantized_weights)
    weights = estimate.weights_in_name(base_model)
    return None if weights is None else estimate.guess_model(weights)


def _worker(tx: Tx, spec: JobSpec, project: ProjectId) -> WorkerFacts:
    """The pool's live worker with the most memory that has the device the spec wants."""
    wanted = spec.settings.resources.device
    mine = [worker for worker in jobs.workers.alive(tx) if worker.pool == spec.pool]
    alive = [worker for worker in mine if wanted in ("auto", _device(worker.device))]
    speed = jobs.queries.measured_speed(tx, spec.model, project=project)
    largest = max(alive, key=lambda worker: worker.memory_bytes or 0, default=None)
    if largest is None:
        return WorkerFacts(device="cuda" if wanted == "cuda" else "cpu", tokens_per_s=speed)
    return WorkerFacts(device=_device(largest.device), memory_bytes=largest.memory_bytes, tokens_per_s=speed)


def _device(reported: str) -> Device:
    return "cpu" if reported.lower().startswith("cpu") else "cuda"


def _rendered(found: Estimate, worker: WorkerFacts) -> Estimated:
    memory = worker.memory_bytes
    return Estimated(
        confidence=found.confidence,
        device=found.device,
        peak_bytes=found.peak.bytes,
        worker_memory_bytes=memory,
        fits=None if memory is None else found.peak.bytes <= memory,
        stages=[
            StageEstimate(
                stage=stage.stage,
                bytes=stage.bytes,
                parts=[MemoryPart(name=part.name, bytes=part.bytes) for part in stage.parts],
            )
            for stage in found.stages
        ],
        steps=found.steps,
        tokens=found.tokens,
        training_s=round(found.training_s, 1),
    )
