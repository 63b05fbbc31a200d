"""A published version, scored again: the same questions give the same scores, and others may be asked."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from bitsmith_core.bundle import EVALS, MANIFEST, Evals, Manifest
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Line
from bitsmith_engine import pipeline
from bitsmith_engine.errors import BadModel

from tests.engine.conftest import toy_spec

PACKS = Path(__file__).parent / "packs"
UNIFORM = {"quantization": {"scheme": "uniform", "bits": 4, "initial": "rtn", "distillation": None}, "max_length": 64}


def run(spec: JobSpec, inputs: Path, out: Path) -> Manifest:
    lines: list[Line] = []
    manifest = pipeline.run(spec, inputs, out, lines.append, lambda: False)
    assert manifest is not None
    return manifest


def evaluation(**changes: Any) -> JobSpec:
    spec = toy_spec("quantize", **UNIFORM).model_dump(mode="json")
    settings = spec["method"]["quantize"]
    evaluate = {"version": "toy@1", "max_length": 64}
    evaluate |= {name: settings[name] for name in ("evaluation", "resources")} | changes
    return JobSpec.model_validate(spec | {"training_file": None, "method": {"type": "evaluate", "evaluate": evaluate}})


@pytest.fixture(scope="module")
def published(toy_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quantize job leaves in OUT/artifacts."""
    out: Path = tmp_path_factory.mktemp("published")
    run(toy_spec("quantize", **UNIFORM), toy_inputs, out)
    return out / "artifacts"


@pytest.fixture
def inputs(toy_inputs: Path, published: Path, tmp_path: Path) -> Path:
    """INPUTS of an evaluation: the version without what no model is loaded from."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    shutil.copytree(published, folder / "version", ignore=lambda _, names: {EVALS, "bf16"} & set(names))
    shutil.copy(toy_inputs / "validation.jsonl", folder)
    (folder / "model").symlink_to(toy_inputs / "model")
    (folder / "packs").mkdir()
    return folder


def test_the_same_questions_give_the_scores_that_the_version_was_published_with(
    inputs: Path, published: Path, tmp_path: Path
) -> None:
    before = Evals.model_validate_json((published / EVALS).read_bytes())
    manifest = run(evaluation(), inputs, tmp_path / "out")
    after = Evals.model_validate_json((tmp_path / "out" / "artifacts" / EVALS).read_bytes())
    assert after == before
    assert manifest.scores == before.scores
    assert {score.subject for score in after.scores} == {"float", "quantized"}


def test_its_bundle_holds_the_answers_and_no_model(inputs: Path, tmp_path: Path) -> None:
    manifest = run(evaluation(), inputs, tmp_path / "out")
    assert [file.path for file in manifest.files] == [EVALS]
    assert (manifest.quantization, manifest.training, manifest.base_model) == (None, None, "local:toy")
    assert [stage.stage for stage in manifest.stages] == ["evaluating", "exporting"]


def test_without_the_base_only_the_version_is_needed(inputs: Path, tmp_path: Path) -> None:
    (inputs / "model").unlink()
    manifest = run(evaluation(base=False), inputs, tmp_path / "out")
    assert {score.subject for score in manifest.scores} == {"quantized"}


def test_without_a_validation_file_benchmarks_alone_are_asked(inputs: Path, tmp_path: Path) -> None:
    (inputs / "validation.jsonl").unlink()
    pack = "file-" + "0" * 25 + "2"
    shutil.copy(PACKS / "piqa.jsonl", inputs / "packs" / f"{pack}.jsonl")
    spec = evaluation(base=False, evaluation={"benchmarks": [{"task": "piqa", "file": pack}]})
    alone = JobSpec.model_validate(spec.model_dump(mode="json") | {"validation_file": None})
    manifest = run(alone, inputs, tmp_path / "out")
    assert [(score.task, score.metric) for score in manifest.scores] == [("piqa", "acc"), ("piqa", "acc_norm")]


def test_merged_adapters_are_scored_from_their_16_bit_weights(inputs: Path, published: Path, tmp_path: Path) -> None:
    shutil.rmtree(inputs / "version")
    shutil.copytree(published / "bf16", inputs / "version" / "bf16")
    manifest = Manifest.model_validate_json((published / MANIFEST).read_bytes())
    merged = [score.model_copy(update={"subject": "lora"}) for score in manifest.scores]
    changed = manifest.model_copy(update={"quantization": None, "scores": merged})
    (inputs / "version" / MANIFEST).write_text(changed.model_dump_json())
    found = run(evaluation(base=False), inputs, tmp_path / "out")
    assert {score.subject for score in found.scores} == {"lora"}
    expected = {score.task: score.value for score in manifest.scores if score.subject == "quantized"}
    for score in found.scores:
        assert score.value == pytest.approx(expected[score.task], rel=0.02)


def test_a_version_that_is_not_there_is_a_bad_model(inputs: Path, tmp_path: Path) -> None:
    (inputs / "version" / MANIFEST).unlink()
    with pytest.raises(BadModel, match=r"no readable manifest\.json"):
        run(evaluation(), inputs, tmp_path / "out")
