"""What a run promises: its stages in order, nothing done twice, and the same bundle whatever interrupted it."""

import json
from pathlib import Path

import pytest
from bitsmith_core.bundle import Manifest
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Line, Progress, Stage, StageFinished, StageStarted
from bitsmith_engine import pipeline
from bitsmith_engine.errors import BadData, Stopped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import toy_spec

ALL = [Stage.MEASURING, Stage.SEARCHING, Stage.QUANTIZING, Stage.TRAINING, Stage.EVALUATING, Stage.EXPORTING]


def run(spec: JobSpec, inputs: Path, out: Path, *, stop_after: int | None = None) -> tuple[Manifest, list[Line]]:
    """Stops at the first boundary after that many lines."""
    lines: list[Line] = []
    manifest = pipeline.run(
        spec, inputs, out, lines.append, lambda: stop_after is not None and len(lines) >= stop_after
    )
    return manifest, lines


def started(lines: list[Line]) -> list[Stage]:
    return [line.stage for line in lines if isinstance(line, StageStarted)]


def resumed(lines: list[Line]) -> list[Stage]:
    return [line.stage for line in lines if isinstance(line, StageFinished) and line.resumed]


@pytest.fixture(scope="module")
def undisturbed(toy_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, list[Line]]:
    return run(toy_spec(), toy_inputs, tmp_path_factory.mktemp("undisturbed"))


def test_stages_come_in_order_and_all_report(undisturbed: tuple[Manifest, list[Line]]) -> None:
    manifest, lines = undisturbed
    assert started(lines) == ALL
    assert [facts.stage for facts in manifest.stages] == ALL
    assert resumed(lines) == []
    training = [line for line in lines if isinstance(line, Progress) and line.stage == Stage.TRAINING]
    assert training[-1].done == training[-1].total
    assert {"loss", "lr", "flips", "flip_rate", "tokens_per_s", "saturation"} <= set(training[-1].metrics)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop_after=st.integers(4, 18))
def test_a_run_stopped_anywhere_and_started_again_makes_the_same_bundle(
    undisturbed: tuple[Manifest, list[Line]],
    toy_inputs: Path,
    tmp_path_factory: pytest.TempPathFactory,
    stop_after: int,
) -> None:
    out = tmp_path_factory.mktemp("out")
    try:
        run(toy_spec(), toy_inputs, out, stop_after=stop_after)
    except Stopped:
        assert not (out / "artifacts").exists()
    kept = {path.name for path in (out / "stages").iterdir() if not path.name.startswith(".")}
    manifest, lines = run(toy_spec(), toy_inputs, out)
    assert set(resumed(lines)) == kept
    assert set(started(lines)) == set(ALL) - kept
    assert manifest.sha256 == undisturbed[0].sha256


def test_stages_of_another_spec_are_done_again(toy_inputs: Path, tmp_path: Path) -> None:
    first, _ = run(toy_spec("quantize", exports=[]), toy_inputs, tmp_path)
    other = toy_spec("quantize", exports=[], quantization={"scheme": "layer-mix", "bpw": 2.0, "calibration_samples": 4})
    second, lines = run(other, toy_inputs, tmp_path)
    assert resumed(lines) == []
    assert second.quantization.bpw_codes == 2.0 != first.quantization.bpw_codes
    stored = json.loads((tmp_path / "artifacts" / "manifest.json").read_text())
    assert stored["spec_sha256"] == other.sha256


def test_quantize_does_not_train(toy_inputs: Path, tmp_path: Path) -> None:
    manifest, lines = run(toy_spec("quantize"), toy_inputs, tmp_path)
    assert Stage.TRAINING not in started(lines)
    assert manifest.training is None
    assert {score.subject for score in manifest.scores} == {"float", "quantized"}


def test_one_width_for_all_needs_no_search(toy_inputs: Path, tmp_path: Path) -> None:
    spec = toy_spec("quantize", quantization={"scheme": "uniform", "bits": 4}, exports=[])
    manifest, lines = run(spec, toy_inputs, tmp_path)
    assert started(lines) == [Stage.QUANTIZING, Stage.EVALUATING, Stage.EXPORTING]
    assert manifest.quantization.bpw_codes == 4.0
    assert manifest.quantization.notes == [
        "12 INT4 layers with 64 input features use groups of 64: 128 does not divide 64"
    ]
    assert not (tmp_path / "artifacts" / "bf16").exists()


def test_missing_inputs_are_named(toy_inputs: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "model").symlink_to(toy_inputs / "model")
    with pytest.raises(BadData, match=r"training\.jsonl is missing"):
        run(toy_spec(), inputs, tmp_path / "out")


@pytest.mark.gpu
def test_a_gpu_runs_the_same_job(toy_inputs: Path, tmp_path: Path) -> None:
    spec = toy_spec(resources={"device": "cuda"})
    manifest, _ = run(spec, toy_inputs, tmp_path)
    assert "bfloat16" in manifest.environment.device
    assert all(facts.peak_memory_bytes > 0 for facts in manifest.stages)
