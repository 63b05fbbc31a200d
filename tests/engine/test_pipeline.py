"""What a run promises: its stages in order, nothing done twice, and the same bundle whatever interrupted it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsmith_core.bundle import Manifest, QuantizationFacts
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Finished, Line, Progress, Stage, StageFinished, StageStarted, decode
from bitsmith_engine import pipeline
from bitsmith_engine.errors import BadData, BadSpec, Stopped
from bitsmith_engine.export.bundle import load_bundle
from bitsmith_engine.quant.parameter import by_layer, dequantize_layer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests.engine.conftest import DISTILLATION, toy_spec

ALL = [
    Stage.MEASURING,
    Stage.SEARCHING,
    Stage.QUANTIZING,
    Stage.CALIBRATING,
    Stage.TRAINING,
    Stage.EVALUATING,
    Stage.EXPORTING,
]


def run(spec: JobSpec, inputs: Path, out: Path, *, stop_after: int | None = None) -> tuple[Manifest, list[Line]]:
    """Stops at the first boundary after that many lines."""
    lines: list[Line] = []
    manifest = pipeline.run(
        spec, inputs, out, lines.append, lambda: stop_after is not None and len(lines) >= stop_after
    )
    assert manifest is not None
    return manifest, lines


def facts_of(manifest: Manifest) -> QuantizationFacts:
    assert manifest.quantization is not None
    return manifest.quantization


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
@given(stop_after=st.integers(4, 30))
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
    other = toy_spec("quantize", exports=[], quantization={"scheme": "layer-mix", "bpw": 2.0, "distillation": None})
    second, lines = run(other, toy_inputs, tmp_path)
    assert resumed(lines) == []
    assert facts_of(second).bpw_codes == 2.0 != facts_of(first).bpw_codes
    stored = json.loads((tmp_path / "artifacts" / "manifest.json").read_text())
    assert stored["spec_sha256"] == other.sha256


def test_quantize_does_not_train(toy_inputs: Path, tmp_path: Path) -> None:
    manifest, lines = run(toy_spec("quantize"), toy_inputs, tmp_path)
    assert Stage.TRAINING not in started(lines)
    assert manifest.training is None
    assert {score.subject for score in manifest.scores} == {"float", "quantized"}


def test_one_width_for_all_needs_no_search(toy_inputs: Path, tmp_path: Path) -> None:
    spec = toy_spec("quantize", quantization={"scheme": "uniform", "bits": 4, "distillation": None}, exports=[])
    manifest, lines = run(spec, toy_inputs, tmp_path)
    assert started(lines) == [Stage.QUANTIZING, Stage.EVALUATING, Stage.EXPORTING]
    assert facts_of(manifest).bpw_codes == 4.0
    assert facts_of(manifest).notes == [
        "12 INT4 layers with 64 input features use groups of 64: 128 does not divide 64"
    ]
    assert not (tmp_path / "artifacts" / "bf16").exists()


def test_channel_mix_trains_and_reports_its_blocks(toy_inputs: Path, tmp_path: Path) -> None:
    spec = toy_spec(quantization={"scheme": "channel-mix", "bpw": 3.0, "distillation": DISTILLATION})
    manifest, lines = run(spec, toy_inputs, tmp_path)
    assert started(lines) == ALL
    facts = facts_of(manifest)
    assert facts.bpw_codes <= 3.0
    assert {layer.name.partition("#")[2] for layer in facts.layers} >= {"2", "4"}
    assert manifest.training is not None
    assert manifest.training.flips > 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "artifacts" / "bf16", dtype=torch.float32)
    rebuilt = load_bundle(tmp_path / "artifacts")
    for layer, blocks in by_layer(rebuilt.parameters.values()).items():
        expected_NK = dequantize_layer(blocks, torch.float32)
        torch.testing.assert_close(loaded.get_parameter(f"{layer}.weight"), expected_NK, rtol=2**-8, atol=0)


def test_a_mix_may_choose_among_any_widths(toy_inputs: Path, tmp_path: Path) -> None:
    quantization = {"scheme": "layer-mix", "bpw": 3.5, "widths": [2, 3, 4, 8], "symmetric": True, "distillation": None}
    manifest, _ = run(toy_spec("quantize", quantization=quantization, exports=[]), toy_inputs, tmp_path)
    facts = facts_of(manifest)
    assert facts.bpw_codes <= 3.5
    assert {layer.bits for layer in facts.layers} <= {2, 3, 4, 8}
    assert (tmp_path / "artifacts" / "bits.svg").read_text().startswith("<svg")
    assert (tmp_path / "artifacts" / "sensitivity.json").is_file()


@pytest.mark.parametrize("initial", ["rtn", "hqq", "awq", "gptq"])
def test_every_way_to_the_first_codes_runs(toy_inputs: Path, tmp_path: Path, initial: str) -> None:
    quantization = {"scheme": "uniform", "bits": 3, "initial": initial, "distillation": None}
    manifest, _ = run(toy_spec("quantize", quantization=quantization, exports=[]), toy_inputs, tmp_path)
    assert facts_of(manifest).bpw_codes == 3.0


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks by an old name
@pytest.mark.parametrize(
    ("method", "subjects"), [("lora", {"float", "lora"}), ("qlora", {"float", "quantized", "qlora"})]
)
def test_adapters_are_trained_scored_and_merged(
    toy_inputs: Path, tmp_path: Path, method: str, subjects: set[str]
) -> None:
    manifest, lines = run(toy_spec(method), toy_inputs, tmp_path)
    assert started(lines) == [Stage.TRAINING, Stage.EVALUATING, Stage.EXPORTING]
    assert manifest.quantization is None
    assert {score.subject for score in manifest.scores} == subjects
    assert {"adapter/adapter_model.safetensors", "bf16/model.safetensors"} <= {entry.path for entry in manifest.files}
    again, lines = run(toy_spec(method), toy_inputs, tmp_path)
    assert resumed(lines) == [Stage.TRAINING, Stage.EVALUATING]
    assert again.sha256 == manifest.sha256


def test_two_ranks_train_together(toy_inputs: Path, tmp_path: Path) -> None:
    # All tokens: what a sample of them is depends on how a batch is split.
    optimizer = {"mode": "residual", "code_learning_rate": 2e-3, "flip_budget": 0.05, "gradient_tokens": 1.0}
    job = toy_spec(exports=[], training={"batch_size": 8, "max_length": 64, "optimizer": optimizer})
    spec = tmp_path / "spec.json"
    spec.write_text(job.model_dump_json())
    alone, _ = run(job, toy_inputs, tmp_path / "alone")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
        sys.executable, "-m", "bitsmith_engine", str(spec), str(toy_inputs), str(tmp_path / "out"),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    lines = [decode(line) for line in ended.stdout.splitlines()]
    assert isinstance(lines[-1], Finished)
    assert started(lines) == ALL
    together = Manifest.model_validate_json((tmp_path / "out" / "artifacts" / "manifest.json").read_bytes())
    assert alone.training is not None
    assert together.training is not None
    assert together.training.last_loss == pytest.approx(alone.training.last_loss, abs=1e-3)


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


def test_a_budget_in_bytes_is_kept_and_used(toy_inputs: Path, tmp_path: Path) -> None:
    def quantized_bytes(name: str, **budget: object) -> tuple[int, set[int]]:
        quantization = {"scheme": "layer-mix", "calibration_samples": 4, "initial": "rtn", "distillation": None}
        manifest, _ = run(toy_spec("quantize", quantization=quantization | budget), toy_inputs, tmp_path / name)
        facts = facts_of(manifest)
        return facts.quantized_bytes, {layer.bits for layer in facts.layers}

    smallest, largest = (quantized_bytes(f"{bpw}", bpw=bpw)[0] for bpw in (2.0, 4.0))
    budget = (smallest + largest) // 2
    found, widths = quantized_bytes("bytes", budget_bytes=budget)
    assert smallest < found <= budget
    assert widths == {2, 3, 4}
    with pytest.raises(BadSpec, match=rf"budget_bytes {smallest - 1} is too little; this base needs {smallest}"):
        quantized_bytes("too-small", budget_bytes=smallest - 1)
