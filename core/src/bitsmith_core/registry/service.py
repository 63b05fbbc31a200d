"""The registry: published checkpoints with their scores and files, under names people choose."""

from collections.abc import Sequence
from dataclasses import dataclass

from bitsmith_core import delivery
from bitsmith_core.bundle import EVALS, Manifest, QuantizationFacts
from bitsmith_core.db import Tx
from bitsmith_core.db.models import Version, VersionFile
from bitsmith_core.delivery import EventType
from bitsmith_core.ids import JobId, ProjectId
from bitsmith_core.registry import blobs, evals, repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    name: str  # name@version
    tokens: int | None  # with a loss; None: nothing was trained


def publish(tx: Tx, *, project: ProjectId, name: str, job_id: JobId, manifest: Manifest) -> Version:
    """A finished job's bundle becomes the next version of the project's `name`.

    Its files are held (`blobs.hold`) and complete in the store before this is called. Call it in the transaction that
    finishes the job, so that the lease fences both. Idempotent: a job that has published already gets its version
    again, so the last step may be repeated after a crash.

    Raises:
        FilesGone: the files are not held any more.
    """
    published = repository.version_of_job(tx, job_id)
    if published is not None:
        return published
    model = repository.get_or_make(tx, project=project, name=name, base_model=manifest.base_model)
    quantization = manifest.quantization
    object_keys = blobs.claim(tx, manifest.files)
    version = Version(
        model=model,
        number=repository.retire_newest(tx, model) + 1,
        job_id=job_id,
        manifest_sha256=manifest.sha256,
        manifest=manifest.model_dump(mode="json"),
        bytes=manifest.total_bytes,
        weights_bytes=quantization.model_bytes if quantization else manifest.total_bytes,
        subject=manifest.subject,
        scheme=quantization.scheme if quantization else None,
        training_file=repository.training_file(tx, job_id),
        bpw_codes=quantization.bpw_codes if quantization else None,
        bpw_effective=quantization.bpw_effective if quantization else None,
        files=[VersionFile(**file.model_dump(), object_key=object_keys[file.path]) for file in manifest.files],
    )
    tx.add(version)
    tx.flush()
    # The job's own evaluation of what it made, and of what that came from.
    evals.record(tx, version.id, version.subject, job_id=job_id, manifest=manifest, items_key=object_keys.get(EVALS))
    delivery.emit(tx, project=project, type=EventType.VERSION_PUBLISHED, target=f"{name}@{version.number}")
    return version


def results_of(tx: Tx, job_ids: Sequence[JobId]) -> dict[JobId, str]:
    """name@version of what each job published; jobs without a result are left out."""
    return {job_id: outcome.name for job_id, outcome in outcomes_of(tx, job_ids).items()}


def outcomes_of(tx: Tx, job_ids: Sequence[JobId]) -> dict[JobId, Outcome]:
    """What each job published; jobs without a result are left out."""
    found = repository.outcomes(tx, job_ids)
    return {job_id: Outcome(name=f"{name}@{number}", tokens=tokens) for job_id, name, number, tokens in found}


def facts_of_base(tx: Tx, base_model: str, *, project: ProjectId) -> QuantizationFacts | None:
    """What is known of a base model from the newest version that the project made of it."""
    version = repository.newest_of_base(tx, base_model, project=project)
    return None if version is None else Manifest.model_validate(version.manifest).quantization


def count_versions(tx: Tx) -> int:
    return repository.count(tx)
