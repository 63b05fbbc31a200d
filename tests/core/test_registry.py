"""The registry publishes each job once and numbers versions without gaps."""

import pytest
from bitsmith_core import jobs, registry
from bitsmith_core.bundle import Environment, FileEntry, Manifest, QuantizationFacts, Score
from bitsmith_core.db import Tx
from bitsmith_core.errors import NotFound
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.registry import lookup
from bitsmith_core.spec import JobSpec


def manifest(content: str = "a") -> Manifest:
    return Manifest(
        base_model="hf:org/tiny",
        spec_sha256="0" * 64,
        files=[FileEntry(path="model.safetensors", bytes=10, sha256=content * 64)],
        quantization=QuantizationFacts(
            scheme="uniform", bpw_codes=4.0, bpw_effective=4.16, quantized_weights=1, float_weights=1,
            quantized_bytes=1, model_bytes=2, float_bytes=4, layers=[],
        ),
        training=None,
        stages=[],
        scores=[
            Score(
                subject="float", task="perplexity", metric="ppl", value=9.5, stderr=0.1, n=100, n_unit="tokens",
                higher_is_better=False, comparable_key="k",
            )
        ],
        environment=Environment(engine="0.1.0", torch="2", transformers="5", device="cpu", seed=0),
    )  # fmt: skip


def published(tx: Tx, job_id: JobId) -> registry.Version:
    registry.blobs.hold(tx, manifest().files)
    return registry.publish(tx, project=DEFAULT_PROJECT, name="tiny-test", job_id=job_id, manifest=manifest())


def test_a_job_publishes_once_however_often_it_is_repeated(tx: Tx, spec: JobSpec) -> None:
    job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    first = published(tx, job.id)
    again = registry.publish(tx, project=DEFAULT_PROJECT, name="tiny-test", job_id=job.id, manifest=manifest("b"))
    assert (again.id, [file.sha256 for file in again.files]) == (first.id, ["a" * 64])
    assert registry.count_versions(tx) == 1
    assert registry.results_of(tx, [job.id]) == {job.id: "tiny-test@1"}


def test_merged_adapters_are_published_without_bits_per_weight(tx: Tx, spec: JobSpec) -> None:
    job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    registry.blobs.hold(tx, manifest().files)
    adapters = manifest().model_copy(update={"quantization": None})
    registry.publish(tx, project=DEFAULT_PROJECT, name="tiny-lora", job_id=job.id, manifest=adapters)
    tx.expire_all()
    found = registry.get_version(tx, "tiny-lora", 1, project=DEFAULT_PROJECT)
    assert (found.bpw_codes, found.bpw_effective) == (None, None)
    assert Manifest.model_validate(found.manifest).quantization is None


def test_versions_of_a_name_are_numbered(tx: Tx, spec: JobSpec) -> None:
    for _ in range(3):
        job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
        published(tx, job.id)
    tx.expire_all()
    found = lookup.versions(tx, registry.get(tx, "tiny-test", project=DEFAULT_PROJECT), limit=10)
    assert [version.number for version in found.versions] == [3, 2, 1]
    newest = registry.get_version(tx, "tiny-test", project=DEFAULT_PROJECT)
    assert (newest.number, [score.value for score in newest.scores]) == (3, [9.5])
    assert registry.get_version(tx, "tiny-test", 2, project=DEFAULT_PROJECT).number == 2


def test_what_is_not_there_is_said_plainly(tx: Tx, spec: JobSpec) -> None:
    with pytest.raises(NotFound, match="no model 'absent'"):
        registry.get(tx, "absent", project=DEFAULT_PROJECT)
    job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    published(tx, job.id)
    tx.expire_all()
    with pytest.raises(NotFound, match="has no version 9; its newest is 1"):
        registry.get_version(tx, "tiny-test", 9, project=DEFAULT_PROJECT)
