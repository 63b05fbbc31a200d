"""What may leave an attempt's folder: the engine's own regular files, as its manifest describes them."""

import errno
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
from bitsmith_core import files
from bitsmith_core.bundle import (
    MANIFEST,
    Environment,
    FileEntry,
    Manifest,
    QuantizationFacts,
    describe_files,
    file_sha256,
)
from bitsmith_core.db import Tx
from bitsmith_core.ids import DEFAULT_PROJECT, new_job_id
from bitsmith_core.jobs import Lease
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import S3Store
from bitsmith_core.wire import CheckpointSaved, FailureClass, Stage
from bitsmith_worker.checkpoints import Kept
from bitsmith_worker.failure import AttemptFailed
from bitsmith_worker.keeping import Keeper
from bitsmith_worker.settings import WorkerSettings
from bitsmith_worker.workspace import Workspace, read_manifest

T = TypeVar("T")


def manifest_of(files: list[FileEntry]) -> Manifest:
    return Manifest(
        base_model="local:base",
        spec_sha256="",
        files=files,
        quantization=QuantizationFacts(
            scheme="uniform", bpw_codes=4, bpw_effective=4.5, quantized_weights=1, float_weights=1,
            quantized_bytes=1, model_bytes=1, float_bytes=1, layers=[],
        ),
        training=None,
        stages=[],
        scores=[],
        environment=Environment(engine="", torch="", transformers="", device="cpu", seed=0),
    )  # fmt: skip


def written(folder: Path, files: list[FileEntry]) -> str:
    manifest = manifest_of(files)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return manifest.sha256


@pytest.fixture
def lease() -> Lease:
    return Lease(job_id=new_job_id(), project=DEFAULT_PROJECT, token=uuid4(), attempt=1, worker="w1")


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(name="w1", scratch=tmp_path / "scratch", store_patience_s=1)


def test_a_manifest_that_tells_the_truth_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    digest = written(tmp_path, describe_files(tmp_path))
    assert read_manifest(tmp_path, digest).total_bytes == 3


def test_a_manifest_that_lies_is_refused_with_the_lie(tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"secret")
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"abc")
    (folder / "link").symlink_to(outside)
    honest = describe_files(folder, leave_out=frozenset({"link"}))[0]
    stolen = FileEntry(path="../secret", bytes=6, sha256=file_sha256(outside))
    lies = {
        "'../secret' is in the manifest and not in the folder": stolen,
        "'link' is in the manifest and not in the folder": stolen.model_copy(update={"path": "link"}),
        "a.bin has 3 bytes instead of 4": honest.model_copy(update={"bytes": 4}),
        f"a.bin has digest {honest.sha256}": honest.model_copy(update={"sha256": "0" * 64}),
    }
    for complaint, entry in lies.items():
        with pytest.raises(AttemptFailed, match=complaint) as caught:
            read_manifest(folder, written(folder, [entry]))
        assert caught.value.line.code == "bad_artifacts"
    with pytest.raises(AttemptFailed, match="it announced"):
        read_manifest(folder, "0" * 64)


def test_artifacts_go_up_under_their_digests_once_and_what_is_there_whole_is_not_sent_again(
    settings: WorkerSettings, lease: Lease, store: S3Store, tmp_path: Path
) -> None:
    def key_of(content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        return f"blobs/{digest[:2]}/{digest}"

    def stored(content: bytes) -> bytes:
        return store.read(key_of(content), offset=0, length=100)

    equal, there, cut, new = (f"{lease.job_id} {word}".encode() for word in ("equal", "there", "cut", "new"))
    (tmp_path / "object").write_bytes(b"T" * len(there))  # its size, so it passes for it: whoever sends it again shows
    store.put_file(key_of(there), tmp_path / "object")
    (tmp_path / "object").write_bytes(cut[:-1])
    store.put_file(key_of(cut), tmp_path / "object")
    with Workspace(settings, store, lease) as workspace:
        artifacts = workspace.out / "artifacts"
        (artifacts / "bf16").mkdir(parents=True)
        for path, content in {"a": equal, "bf16/a": equal, "there": there, "cut": cut, "new": new}.items():
            (artifacts / path).write_bytes(content)
        manifest = workspace.check_artifacts(written(artifacts, describe_files(artifacts)))
        workspace.upload_artifacts(manifest)

    assert (stored(equal), stored(cut), stored(new)) == (equal, cut, new)
    assert stored(there) == b"T" * len(there)
    assert list(store.list(f"{lease.prefix}/")) == []
    for content in (equal, there, cut, new):
        store.delete(key_of(content))


def test_a_stage_goes_up_without_what_its_links_lead_to(
    settings: WorkerSettings, lease: Lease, store: S3Store, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("secret")
    with Workspace(settings, store, lease) as workspace:
        stage = workspace.out / "stages" / "training"
        (stage / "deep").mkdir(parents=True)
        (stage / "deep" / "state.bin").write_bytes(b"state")
        (stage / "file").symlink_to(tmp_path / "etc" / "passwd")
        (stage / "folder").symlink_to(tmp_path / "etc")
        (workspace.out / "stages" / "measuring").symlink_to(tmp_path / "etc")
        kept = workspace.upload_stage("training")
        assert workspace.upload_stage("measuring") is None
        assert workspace.upload_stage("evaluating") is None

    prefix = f"{lease.prefix}/stages/training"
    assert kept == Kept(prefix=prefix, files=["deep/state.bin"], size_bytes=5)
    found = {info.key: info.bytes for info in store.list(f"{lease.prefix}/")}
    assert found.pop(f"{prefix}/deep/state.bin") == 5
    assert list(found) == [f"{prefix}/checkpoint.json"]


def test_a_checkpoint_that_cannot_be_held_does_not_end_the_attempt(
    settings: WorkerSettings, lease: Lease, store: S3Store
) -> None:
    def never(action: Callable[[Tx], T]) -> T:
        raise AssertionError("nothing was uploaded")

    with Workspace(settings, store, lease) as workspace, ThreadPoolExecutor() as transfers:
        keeper = Keeper(workspace, lease, transfers, commit=never, on_lease_lost=lambda: None)
        too_long = f"stages/{'x' * 300}"  # no file system knows such a name
        for path in (too_long, "stages/absent", "../elsewhere"):
            keeper.hear(CheckpointSaved(stage=Stage.TRAINING, step=1, path=path))
        assert keeper.uploads == []


def test_scratch_is_empty_after_success_and_failure(settings: WorkerSettings, lease: Lease, store: S3Store) -> None:
    for failure in (None, ZeroDivisionError):
        with suppress(ZeroDivisionError), Workspace(settings, store, lease) as workspace:
            (workspace.out / "big").write_bytes(b"x")
            if failure:
                raise failure
        assert list(settings.scratch.iterdir()) == []


def test_a_full_disk_is_a_lack_of_resources(settings: WorkerSettings, lease: Lease, store: S3Store) -> None:
    """/dev/full answers every write as a full disk does."""
    with Workspace(settings, store, lease) as workspace:
        workspace.spec_file.symlink_to("/dev/full")
        with pytest.raises(AttemptFailed) as caught:
            workspace.write_spec("{}" * 100_000)
    assert (caught.value.line.failure, caught.value.line.code) == (FailureClass.RESOURCE, "disk_full")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_the_engine_finds_a_folder_or_a_file_by_its_name(
    settings: WorkerSettings, lease: Lease, store: S3Store, tmp_path: Path
) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "config.json").write_text("{}")
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    with Workspace(settings, store, lease) as workspace:
        workspace.link_model(tmp_path / "org")
        assert [path.name for path in (workspace.inputs / "model").iterdir()] == ["config.json"]
    with Workspace(settings, store, lease) as workspace:
        workspace.link_model(tmp_path / "base.gguf")
        assert [path.name for path in (workspace.inputs / "model").iterdir()] == ["base.gguf"]


def test_the_engine_finds_eval_packs_by_their_file_ids(
    settings: WorkerSettings, lease: Lease, store: S3Store, tx: Tx, spec: JobSpec, tmp_path: Path
) -> None:
    def stored(name: str, content: bytes, purpose: files.Purpose) -> files.File:
        path = tmp_path / name
        path.write_bytes(content)
        sha256 = files.store_bytes(store, path)
        return files.add(
            tx,
            project=DEFAULT_PROJECT,
            filename=name,
            purpose=purpose,
            size_bytes=len(content),
            sha256=sha256,
            examples=1,
        )

    (tmp_path / "models" / "org").mkdir(parents=True)
    (tmp_path / "models" / "org" / "config.json").write_text("{}")
    here = settings.model_copy(update={"models": tmp_path / "models"})
    example, pack = stored("a", b"examples", "fine-tune"), stored("b", b"documents", "evals")
    with Workspace(here, store, lease) as workspace:
        workspace.fetch(spec.model_copy(update={"model": "local:org"}), example, None, [], [])
        assert [path.name for path in workspace.inputs.rglob("*.jsonl")] == ["training.jsonl"]
    with Workspace(here, store, lease) as workspace:
        workspace.fetch(spec.model_copy(update={"model": "local:org"}), example, example, [pack], [])
        found = {path.relative_to(workspace.inputs).as_posix() for path in workspace.inputs.rglob("*.jsonl")}
        assert found == {"training.jsonl", "validation.jsonl", f"packs/{pack.id}.jsonl"}
        assert (workspace.inputs / "packs" / f"{pack.id}.jsonl").read_bytes() == b"documents"
