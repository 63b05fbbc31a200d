"""What a checkpoint line promises: its folder in another OUT, with the finished stages, leads to the same bundle."""

import shutil
from pathlib import Path

import pytest
from bitsmith_core.bundle import Manifest
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Adjustments, CheckpointSaved, Line, Note, Progress, Stage
from bitsmith_engine import pipeline
from bitsmith_engine.errors import Stopped

from tests.engine.conftest import toy_spec


@pytest.fixture(scope="module")
def spec() -> JobSpec:
    document = toy_spec().model_dump(mode="json")
    document["method"]["qsft"]["training"] |= {"checkpoint_steps": 1}
    return JobSpec.model_validate(document)


@pytest.fixture(scope="module")
def undisturbed(spec: JobSpec, toy_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    manifest = pipeline.run(spec, toy_inputs, tmp_path_factory.mktemp("undisturbed"), lambda line: None, lambda: False)
    assert manifest is not None
    return manifest


def stopped_in(stage: Stage, spec: JobSpec, inputs: Path, out: Path) -> CheckpointSaved:
    lines: list[Line] = []

    def is_time() -> bool:
        return any(isinstance(line, CheckpointSaved) and line.stage == stage for line in lines)

    with pytest.raises(Stopped):
        pipeline.run(spec, inputs, out, lines.append, is_time)
    return [line for line in lines if isinstance(line, CheckpointSaved)][-1]


def stopped_in_training(spec: JobSpec, inputs: Path, out: Path) -> CheckpointSaved:
    return stopped_in(Stage.TRAINING, spec, inputs, out)


def moved(saved: CheckpointSaved, here: Path, there: Path) -> None:
    """As a worker does: finished stages and the one checkpoint, nothing else."""
    (there / "stages").mkdir(parents=True)
    for stage in (here / "stages").iterdir():
        if not stage.name.startswith("."):
            shutil.copytree(stage, there / "stages" / stage.name)
    shutil.copytree(here / saved.path, there / saved.path)


def notes(lines: list[Line]) -> list[str]:
    return [line.message for line in lines if isinstance(line, Note)]


def test_another_machine_makes_the_same_bundle_bit_for_bit(
    spec: JobSpec, undisturbed: Manifest, toy_inputs: Path, tmp_path: Path
) -> None:
    saved = stopped_in_training(spec, toy_inputs, tmp_path / "here")
    assert saved.stage == Stage.TRAINING
    assert saved.metrics["loss"] > 0
    moved(saved, tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    lines: list[Line] = []
    manifest = pipeline.run(spec, toy_inputs, tmp_path / "there", lines.append, lambda: False)
    assert any(f"training continues after step {saved.step}" in message for message in notes(lines))
    trained = [line.done for line in lines if isinstance(line, Progress) and line.stage == Stage.TRAINING]
    assert trained[0] == saved.step + 1
    assert manifest is not None
    assert manifest.sha256 == undisturbed.sha256


def test_a_calibration_goes_on_elsewhere_to_the_same_bundle(
    spec: JobSpec, undisturbed: Manifest, toy_inputs: Path, tmp_path: Path
) -> None:
    saved = stopped_in(Stage.CALIBRATING, spec, toy_inputs, tmp_path / "here")
    assert saved.step == 2  # the first layer's was heard of; the stop came after the second
    assert saved.metrics["block_error"] > 0
    moved(saved, tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    lines: list[Line] = []
    manifest = pipeline.run(spec, toy_inputs, tmp_path / "there", lines.append, lambda: False)
    calibrated = [line.done for line in lines if isinstance(line, Progress) and line.stage == Stage.CALIBRATING]
    assert calibrated[0] == saved.step + 1
    assert manifest is not None
    assert manifest.sha256 == undisturbed.sha256


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks by an old name
def test_adapters_go_on_elsewhere_to_the_same_bundle(toy_inputs: Path, tmp_path: Path) -> None:
    training = {"batch_size": 8, "max_length": 64, "rank": 4, "dropout": 0.1, "checkpoint_steps": 2}
    spec = toy_spec("lora", training=training)
    undisturbed = pipeline.run(spec, toy_inputs, tmp_path / "undisturbed", lambda line: None, lambda: False)
    saved = stopped_in(Stage.TRAINING, spec, toy_inputs, tmp_path / "here")
    assert saved.step == 3
    moved(saved, tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    lines: list[Line] = []
    manifest = pipeline.run(spec, toy_inputs, tmp_path / "there", lines.append, lambda: False)
    assert any("training continues after step 3 of 6" in message for message in notes(lines))
    assert manifest is not None
    assert undisturbed is not None
    assert manifest.sha256 == undisturbed.sha256


def test_what_was_held_out_of_the_training_file_stays_held_out(spec: JobSpec, toy_inputs: Path, tmp_path: Path) -> None:
    alone = spec.model_copy(update={"validation_file": None})
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "model").symlink_to(toy_inputs / "model")
    shutil.copyfile(toy_inputs / "training.jsonl", inputs / "training.jsonl")
    saved = stopped_in_training(alone, inputs, tmp_path / "here")
    moved(saved, tmp_path / "here", tmp_path / "there")
    lines: list[Line] = []
    continued = pipeline.run(alone, inputs, tmp_path / "there", lines.append, lambda: False)
    undisturbed = pipeline.run(alone, inputs, tmp_path / "undisturbed", lambda line: None, lambda: False)
    assert any("held out 8 of 48 examples" in message for message in notes(lines))
    assert any(f"training continues after step {saved.step}" in message for message in notes(lines))
    assert continued is not None
    assert undisturbed is not None
    assert continued.sha256 == undisturbed.sha256
    assert continued.training is not None
    assert continued.training.examples == 40


def test_adjustments_throw_nothing_away(spec: JobSpec, toy_inputs: Path, tmp_path: Path) -> None:
    saved = stopped_in_training(spec, toy_inputs, tmp_path / "here")
    moved(saved, tmp_path / "here", tmp_path / "there")
    lines: list[Line] = []
    changes = Adjustments(micro_batch_size=1, step_factor=0.5)
    manifest = pipeline.run(spec, toy_inputs, tmp_path / "there", lines.append, lambda: False, adjustments=changes)
    assert any(f"training continues after step {saved.step}" in message for message in notes(lines))
    assert spec.training is not None
    assert manifest is not None
    rates = [line.metrics["lr"] for line in lines if isinstance(line, Progress) and line.stage == Stage.TRAINING]
    assert max(rates) <= spec.training.optimizer.scale_learning_rate / 2
    assert manifest.training is not None
    if spec.training.optimizer.mode != "scales_only":
        assert manifest.training.flip_budget == spec.training.optimizer.flip_budget / 2
