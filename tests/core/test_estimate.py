"""An estimate adds up from parts that follow what the engine holds, and agrees with a run that was measured."""

import math
from typing import Any

import pytest
from bitsmith_core.bundle import LayerBits, QuantizationFacts
from bitsmith_core.estimate import (
    DataFacts,
    Estimate,
    ModelFacts,
    StageMemory,
    WorkerFacts,
    estimate,
    facts_of,
    guess_model,
    planned_steps,
    weights_in_name,
)
from bitsmith_core.ids import new_file_id
from bitsmith_core.spec import JobSpec, Training

SMOL = ModelFacts(
    quantized_weights=106_168_320, float_weights=28_348_000, layers=30, hidden=576, intermediate=1536, key_value=192,
    vocabulary=49_152,
)  # fmt: skip
DATA = DataFacts(examples=1000, bytes=1000 * 512)  # 128 tokens an example
CPU = WorkerFacts(device="cpu")


def spec(method: str = "qsft", **training: Any) -> JobSpec:
    settings = {} if method == "quantize" else {"training": training}
    return JobSpec.model_validate(
        {
            "model": "hf:org/smol",
            "training_file": new_file_id(),
            "validation_file": new_file_id(),
            "method": {"type": method, method: settings},
        }
    )


def stage(found: Estimate, name: str) -> StageMemory:
    return next(stage for stage in found.stages if stage.stage == name)


def part(found: Estimate, name: str, *, of: str = "training") -> int:
    return next((part.bytes for part in stage(found, of).parts if part.name == name), 0)


def test_it_agrees_with_a_measured_run() -> None:
    # docs/engine-log.md: SmolLM2-135M, 8 x 128 tokens, scales_only on a CPU: 2.74 GB; with int8 accumulators 2.90 GB.
    assert stage(estimate(spec(), SMOL, DATA, CPU), "training").bytes == pytest.approx(2.74e9, rel=0.1)
    residual = spec(optimizer={"mode": "residual"})
    assert stage(estimate(residual, SMOL, DATA, CPU), "training").bytes == pytest.approx(2.90e9, rel=0.1)


def test_codes_take_a_byte_and_accumulators_their_kind() -> None:
    for kind, n_bytes in (("float32", 4.0), ("bfloat16", 2.0), ("int8", 1.0), ("int4", 0.5)):
        found = estimate(spec(optimizer={"mode": "residual", "accumulator": kind}), SMOL, DATA, CPU)
        assert part(found, "codes") == SMOL.quantized_weights
        assert part(found, "accumulators") == SMOL.quantized_weights * n_bytes
    assert part(estimate(spec(), SMOL, DATA, CPU), "accumulators") == 0


def test_activations_grow_with_the_pass_and_shrink_when_recomputed() -> None:
    def activations(**training: Any) -> int:
        return part(estimate(spec(**training), SMOL, DATA, CPU), "activations")

    assert activations(batch_size=16) == 2 * activations(batch_size=8)
    assert activations(batch_size=16, micro_batch_size=4) == activations(batch_size=4)
    assert activations(batch_size=16, micro_batch_size=64) == activations(batch_size=16)
    assert activations(max_length=64) == activations() / 2
    assert activations(activation_checkpointing=True) < activations() / 10


def test_logits_never_exceed_their_chunk() -> None:
    large = part(estimate(spec(batch_size=512), SMOL, DATA, CPU), "logits")
    assert large <= 2**25 * 12
    assert part(estimate(spec(batch_size=1), SMOL, DATA, CPU), "logits") == 128 * SMOL.vocabulary * 12


def test_a_gpu_computes_in_half_the_bytes() -> None:
    on_cpu, on_gpu = (estimate(spec(), SMOL, DATA, WorkerFacts(device=device)) for device in ("cpu", "cuda"))
    assert 2 * part(on_gpu, "activations") == part(on_cpu, "activations")
    assert part(on_gpu, "the float base", of="evaluating") == 2 * (SMOL.quantized_weights + SMOL.float_weights)
    assert part(on_gpu, "codes") == part(on_cpu, "codes")


def test_adapters_hold_the_base_as_their_method_does() -> None:
    lora, qlora = (estimate(spec(method), SMOL, DATA, CPU) for method in ("lora", "qlora"))
    assert part(lora, "base weights") == 4 * SMOL.quantized_weights
    assert part(qlora, "base weights") < 0.6 * SMOL.quantized_weights
    assert part(lora, "adapters") == part(qlora, "adapters") == 16 * SMOL.sides * 16
    assert [stage.stage for stage in lora.stages] == ["training", "evaluating"]


def test_quantizing_alone_trains_nothing() -> None:
    found = estimate(spec("quantize"), SMOL, DATA, CPU)
    assert ([stage.stage for stage in found.stages], found.steps, found.training_s) == (
        ["quantizing", "evaluating"], 0, 0.0,
    )  # fmt: skip


def test_parts_add_up_and_the_peak_is_the_largest_stage() -> None:
    found = estimate(spec(), SMOL, DATA, CPU)
    for one in found.stages:
        assert one.bytes == sum(part.bytes for part in one.parts)
    assert found.peak.bytes == max(one.bytes for one in found.stages)


@pytest.mark.parametrize(
    ("examples", "training", "steps"), [(10, {}, 2), (16, {"epochs": 3}, 6), (16, {"max_steps": 1}, 1)]
)
def test_steps_are_counted_as_the_engine_plans_them(examples: int, training: dict[str, int], steps: int) -> None:
    assert planned_steps(Training.model_validate(training), examples) == steps


def test_time_is_tokens_over_speed() -> None:
    found = estimate(spec(epochs=2), SMOL, DATA, WorkerFacts(device="cpu", tokens_per_s=100.0))
    assert found.tokens == 2 * 1000 * 128
    assert found.training_s == pytest.approx(2560.0)
    assert found.confidence == "medium"
    guessed = estimate(spec(epochs=2), SMOL, DATA, CPU)
    assert guessed.confidence == "low"
    assert guessed.training_s > estimate(spec(epochs=2, optimizer={"gradient_tokens": 0.1}), SMOL, DATA, CPU).training_s


def test_what_does_not_fit_comes_with_advice() -> None:
    found = estimate(spec(), SMOL, DATA, WorkerFacts(device="cpu", memory_bytes=10**9))
    (warning,) = found.warnings
    assert "training needs about 2.6 GB" in warning
    assert "micro_batch_size" in warning
    assert estimate(spec(), SMOL, DATA, WorkerFacts(device="cpu", memory_bytes=10**10)).warnings == ()


def test_long_examples_and_short_runs_are_warned_of() -> None:
    found = estimate(spec(max_length=64), SMOL, DataFacts(examples=8, bytes=8 * 512), CPU)
    assert any("max_length cuts them at 64" in warning for warning in found.warnings)
    assert any("only 1 optimizer steps" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("hf:org/Name-7B", 7e9),
        ("hf:org/name-1.5b-instruct", 1.5e9),
        ("hf:org/SmolLM2-135M-Instruct@v1", 135e6),
        ("local:smollm2-135m.gguf", 135e6),
        ("hf:org/name", None),
        ("hf:org/gpt2-medium", None),
        ("hf:org/name-v2", None),
    ],
)
def test_a_name_may_promise_a_size(name: str, weights: float | None) -> None:
    assert weights_in_name(name) == weights


@pytest.mark.parametrize("weights", [1e8, 1e9, 7e9, 7e10])
def test_a_guessed_shape_has_about_that_many_weights(weights: float) -> None:
    guessed = guess_model(weights)
    assert guessed.is_guess
    attention = 2 * guessed.hidden**2 + 2 * guessed.hidden * guessed.key_value
    held = guessed.layers * (attention + 3 * guessed.hidden * guessed.intermediate)
    assert math.isclose(held, weights, rel_tol=0.25)


def layers(*shapes: tuple[str, int]) -> QuantizationFacts:
    return QuantizationFacts(
        scheme="uniform", bpw_codes=4, bpw_effective=4.2, quantized_weights=106_168_320, float_weights=28_311_552,
        quantized_bytes=1, model_bytes=1, float_bytes=1,
        layers=[LayerBits(name=name, bits=4, group_size=128, weights=weights) for name, weights in shapes],
    )  # fmt: skip


def test_a_published_version_tells_its_bases_shape() -> None:
    of_a_layer = {
        "self_attn.q_proj": 576 * 576, "self_attn.k_proj": 576 * 192, "self_attn.v_proj": 576 * 192,
        "self_attn.o_proj": 576 * 576, "mlp.gate_proj": 576 * 1536, "mlp.up_proj": 576 * 1536,
        "mlp.down_proj": 576 * 1536,
    }  # fmt: skip
    named = [(f"model.layers.{depth}.{name}", n) for depth in range(30) for name, n in of_a_layer.items()]
    assert facts_of(layers(*named)) == ModelFacts(
        quantized_weights=106_168_320, float_weights=28_311_552, layers=30, hidden=576, intermediate=1536,
        key_value=192, vocabulary=49_152,
    )  # fmt: skip


def test_layers_of_another_family_tell_nothing() -> None:
    assert facts_of(layers(("transformer.h.0.c_attn", 100))) is None
    assert facts_of(layers()) is None
