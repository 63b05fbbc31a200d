"""What an attempt is to do, as the database has it."""

from dataclasses import dataclass

from bitsmith_core import files, jobs
from bitsmith_core.db import Tx
from bitsmith_core.errors import NotFound
from bitsmith_core.files import File
from bitsmith_core.ids import FileId
from bitsmith_core.jobs import Checkpoint, Lease
from bitsmith_core.registry import evals
from bitsmith_core.registry.evals import Bundle
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Adjustments, FailureClass
from pydantic import ValidationError

from bitsmith_worker.failure import AttemptFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was asked, and what is there already."""

    spec: JobSpec
    training: File | None
    validation: File | None
    version: Bundle | None  # to be evaluated
    packs: list[File]
    checkpoints: list[Checkpoint]
    adjustments: Adjustments | None


def read_order(tx: Tx, lease: Lease) -> Order:
    """
    Raises:
        AttemptFailed
    """
    job = jobs.get(tx, lease.job_id)
    try:
        spec = JobSpec.model_validate(job.spec)
    except ValidationError as error:
        problem = f"This worker does not understand the job's spec; is it older than the API? {error}"
        raise AttemptFailed(FailureClass.CONFIG, "spec_not_understood", problem) from error
    return Order(
        spec=spec,
        training=None if spec.training_file is None else files.get(tx, FileId(spec.training_file)),
        validation=None if spec.validation_file is None else files.get(tx, FileId(spec.validation_file)),
        version=None if spec.evaluates is None else _version(tx, spec.evaluates, lease),
        packs=[files.get(tx, file_id) for file_id in _pack_ids(spec)],
        checkpoints=jobs.checkpoints(tx, lease.job_id),
        adjustments=Adjustments.model_validate(job.adjustments) if job.adjustments else None,
    )


def _version(tx: Tx, reference: str, lease: Lease) -> Bundle:
    try:
        return evals.bundle(tx, reference, project=lease.project)
    except NotFound as error:
        raise AttemptFailed(FailureClass.DATA, "version_gone", f"Nothing is left to be evaluated: {error}.") from error


def _pack_ids(spec: JobSpec) -> list[FileId]:
    """The files of all benchmarks, each once: one pack may serve several tasks."""
    benchmarks = spec.settings.evaluation.benchmarks
    named = {name for benchmark in benchmarks for name in (benchmark.file, benchmark.fewshot_file) if name is not None}
    return [FileId(name) for name in sorted(named)]
