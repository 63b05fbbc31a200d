"""Evaluations are records of their own: several of one version, of which lists show the newest."""

from pathlib import Path

import pytest
import toy_evals
from bitsmith_core import jobs, registry
from bitsmith_core.bundle import Evals
from bitsmith_core.db import Tx
from bitsmith_core.errors import NotFound
from bitsmith_core.ids import DEFAULT_PROJECT, ProjectId
from bitsmith_core.registry import blobs, evals, trials
from bitsmith_core.registry.gates import Gate
from bitsmith_core.registry.items import Items
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import S3Store

YES, NO = True, False


def publish(tx: Tx, spec: JobSpec, content: Evals, *, name: str = "tiny", weights: str = "a") -> str:
    job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    manifest = toy_evals.manifest(content, weights=weights)
    blobs.hold(tx, manifest.files)
    version = registry.publish(tx, project=DEFAULT_PROJECT, name=name, job_id=job.id, manifest=manifest)
    return f"{name}@{version.number}"


def evaluate(tx: Tx, spec: JobSpec, version: str, content: Evals) -> str:
    job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    manifest = toy_evals.manifest(content)
    blobs.hold(tx, manifest.files)
    return evals.publish(tx, project=DEFAULT_PROJECT, version=version, job_id=job.id, manifest=manifest).id


def shown(tx: Tx, version: str) -> dict[str, float]:
    """What lists show of a version."""
    found = evals.page(tx, project=DEFAULT_PROJECT, limit=100)
    return {
        row.task: row.value for evaluation in found if evaluation.version == version
        for row in evaluation.results if row.is_headline
    }  # fmt: skip


def test_a_version_evaluated_again_shows_its_newest_score_of_each_task(tx: Tx, spec: JobSpec) -> None:
    first = toy_evals.evals({"float": {"piqa": [YES, YES]}, "quantized": {"piqa": [YES, NO], "boolq": [YES, NO]}})
    version = publish(tx, spec, first)
    assert shown(tx, version) == {"piqa": 0.5, "boolq": 0.5}
    evaluate(tx, spec, version, toy_evals.evals({"quantized": {"piqa": [YES, YES], "wic": [NO, NO]}}, key="new"))
    assert shown(tx, version) == {"piqa": 1.0, "boolq": 0.5, "wic": 0.0}


def test_what_a_version_came_from_is_never_what_lists_show(tx: Tx, spec: JobSpec) -> None:
    version = publish(tx, spec, toy_evals.evals({"quantized": {"piqa": [YES, NO]}}))
    evaluate(tx, spec, version, toy_evals.evals({"float": {"piqa": [YES, YES]}}))
    assert shown(tx, version) == {"piqa": 0.5}


def test_a_job_publishes_its_evaluation_once(tx: Tx, spec: JobSpec) -> None:
    version = publish(tx, spec, toy_evals.evals({"quantized": {"piqa": [YES]}}))
    job = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    manifest = toy_evals.manifest(toy_evals.evals({"quantized": {"piqa": [NO]}}))
    blobs.hold(tx, manifest.files)
    ids = {
        evals.publish(tx, project=DEFAULT_PROJECT, version=version, job_id=job.id, manifest=manifest).id
        for _ in range(2)
    }
    assert len(ids) == 1


def test_an_evaluation_of_a_version_that_was_deleted_is_not_there(tx: Tx, spec: JobSpec) -> None:
    version = publish(tx, spec, toy_evals.evals({"quantized": {"piqa": [YES]}}))
    evaluate(tx, spec, version, toy_evals.evals({"quantized": {"piqa": [NO]}}))
    registry.delete(tx, "tiny", 1, project=DEFAULT_PROJECT)
    assert evals.page(tx, project=DEFAULT_PROJECT, limit=10) == []
    with pytest.raises(NotFound, match="tiny@1"):
        evaluate(tx, spec, version, toy_evals.evals({"quantized": {"piqa": [NO]}}))


def test_a_version_is_named_by_number_or_as_the_newest(tx: Tx, spec: JobSpec) -> None:
    for _ in range(2):
        publish(tx, spec, toy_evals.evals({"quantized": {"piqa": [YES]}}))
    assert evals.resolve(tx, "tiny@1", project=DEFAULT_PROJECT).name == "tiny@1"
    assert evals.resolve(tx, "tiny", project=DEFAULT_PROJECT).name == "tiny@2"
    for absent in ("tiny@3", "tiny@prod", "other", "tiny@0", "", "tiny@1:float", "a/b"):
        with pytest.raises(NotFound):
            evals.resolve(tx, absent, project=DEFAULT_PROJECT)
    with pytest.raises(NotFound):
        evals.resolve(tx, "tiny@1", project=ProjectId("proj-other"))


def test_pages_are_newest_first_and_can_be_narrowed(tx: Tx, spec: JobSpec) -> None:
    content = toy_evals.evals({"quantized": {"piqa": [YES]}})
    for name in ("tiny", "tiny", "other"):
        publish(tx, spec, content, name=name)
    again = evaluate(tx, spec, "tiny@1", toy_evals.evals({"quantized": {"wic": [YES]}}))

    found = evals.page(tx, project=DEFAULT_PROJECT, limit=10)
    assert [row.version for row in found] == ["tiny@1", "other@1", "tiny@2", "tiny@1"]
    rest = evals.page(tx, project=DEFAULT_PROJECT, limit=2, after=found[1].row.id)
    assert [row.version for row in rest] == ["tiny@2", "tiny@1"]
    of_model = evals.page(tx, project=DEFAULT_PROJECT, limit=10, model="tiny", number=1)
    assert [row.version for row in of_model] == ["tiny@1", "tiny@1"]
    assert [row.row.id for row in evals.page(tx, project=DEFAULT_PROJECT, limit=10, task="wic")] == [again]
    assert evals.page(tx, project=ProjectId("proj-other"), limit=10) == []


def test_items_are_read_once_and_no_more_is_kept_than_was_said(store: S3Store, tmp_path: Path) -> None:
    contents = [toy_evals.evals({"quantized": {"piqa": [YES] * count}}) for count in (1, 2, 3)]
    keys = [toy_evals.put(store, content, tmp_path) for content in contents]
    sizes = [len(content.model_dump_json()) for content in contents]
    items = Items(store, kept_bytes=sizes[1] + sizes[2])
    assert [items.read(key) for key in keys] == contents
    for key in keys:
        store.delete(key)
    assert [items.read(key) for key in keys] == [None, contents[1], contents[2]]


def test_items_that_no_engine_of_ours_wrote_are_none(store: S3Store, tmp_path: Path) -> None:
    file = tmp_path / "evals.json"
    file.write_text('{"scores": "many"}')
    store.put_file("blobs/xx/bad", file)
    assert Items(store).read("blobs/xx/bad") is None


@pytest.mark.parametrize(("right", "passes"), [(20, False), (29, True), (30, True)])
def test_a_gate_is_asked_of_versions_in_the_registry(
    tx: Tx, spec: JobSpec, store: S3Store, tmp_path: Path, right: int, passes: bool
) -> None:
    contents = [toy_evals.evals({"quantized": {"piqa": [YES] * hits + [NO] * (30 - hits)}}) for hits in (30, right)]
    for content in contents:
        toy_evals.put(store, content, tmp_path)
        publish(tx, spec, content)
    trial = trials.plan(tx, Gate(), candidate="tiny@2", current=1, project=DEFAULT_PROJECT)
    report = trials.decide(trial, Items(store).read)
    assert (report.passed, report.candidate, report.against) == (passes, "tiny@2", "tiny@1")


def test_a_gate_may_hold_a_version_against_the_float_model_it_was_made_from(
    tx: Tx, spec: JobSpec, store: S3Store, tmp_path: Path
) -> None:
    content = toy_evals.evals({"float": {"piqa": [YES] * 20}, "quantized": {"piqa": [NO] * 20}})
    toy_evals.put(store, content, tmp_path)
    publish(tx, spec, content)
    trial = trials.plan(tx, Gate(against="base"), candidate="tiny@1", current=None, project=DEFAULT_PROJECT)
    report = trials.decide(trial, Items(store).read)
    assert (report.passed, report.against) == (False, "tiny@1:float")
    assert "a significant loss: -1 share of right answers" in report.summary


def test_a_version_is_not_held_against_itself_or_against_nothing(tx: Tx, spec: JobSpec, store: S3Store) -> None:
    publish(tx, spec, toy_evals.evals({"quantized": {"piqa": [YES]}}))
    for current in (None, 1):
        trial = trials.plan(tx, Gate(), candidate="tiny@1", current=current, project=DEFAULT_PROJECT)
        assert trials.decide(trial, Items(store).read).passed
