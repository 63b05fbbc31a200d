"""How much memory and time a job will take, part by part. Pure; a guess that says what it guessed from.

Bytes of one device, one process. P quantized weights in matrices (N x K), F other weights, L decoder layers, H hidden
features, I of the MLP, V vocabulary, S features of a group, T tokens of a pass, c bytes of a number the device computes
with (2 on a GPU, 4 on a CPU), r the adapters' rank.

    training by qsft                                                                  (bitsmith_engine)
      codes            P * 1                    one byte a code; packing is for files          quant.parameter
      scales           P/S * 3                  float16, and a zero point of one byte
      float weights    F * c                    embeddings, head, norms, as loaded             nn.assembly
      scale optimizer  P/S * 16 + (2H + V) ..   log scale, two moments, gradient in float32    optim.diodemix
      sketches         sum(N+K) * 36            8 probes and one factor of the second moment, float32
      accumulator      P * {4, 2, 1, 1/2}       mode residual, by its kind                     optim.codes
      momentum         P * {4, 2, 1, 1/2}       or 64 * sum(N+K) * 4 if low_rank               optim.momentum
      activations      T * L * (10H + 4KV + 4I) * c    for the backward pass; recomputed: T * (L * H + one layer) * c
      one weight       max(N*K) * (2c + 8)      dequantized for the forward pass and again for dX; its gradient in
                                                float32 and one copy
      logits           min(T, 2^25/V) * V * (c + 8)    a chunk, in float32, and its gradient    models.forward
    training by lora, qlora
      base             P * c, or P * 0.52       NF4 with its absolute maxima
      adapters         r * sum(N+K) * 16        float32 weight, gradient, two moments
    evaluating         (P + F) * c              the float base is scored too, whole
                       P + F * c                without it: codes, one byte each
    quantizing         max(K)^2 * 24 + layer * 8    gptq's Gram matrix in float32, float64 and its factor
    process            0.4 GB on a CPU, 0.9 GB on a GPU    Python, torch, the device's context

    seconds = tokens read * FLOP of a token / FLOP/s of the device
    FLOP    = P * (2 forward + 2 dX + 2 dW * gradient_tokens) + 4 * V * H

The activations' factor is llama's: two norms, q, k, v, rotary embedding, attention, gate, up and their product. Checked
against a measured run: SmolLM2-135M, 8 x 128 tokens, scales_only on a CPU, 2.74 GB (docs/engine-log.md, speed of a
training step); these formulas say 2.64. A token is taken as 4 bytes of the training file.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from bitsmith_core.bundle import QuantizationFacts
from bitsmith_core.spec import (
    JobSpec,
    LoraSettings,
    LoraTraining,
    QloraMethod,
    QsftMethod,
    QsftSettings,
    QuantizeSettings,
    Training,
    UniformQuantization,
)

BYTES_OF_A_TOKEN = 4
CHUNK_LOGITS = 1 << 25
PROBES = 8
LOW_RANK = 64
KIND_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
NF4_BYTES = 0.52
GUESSED_VOCABULARY = 128_000

# What a core and a card of today sustain on such matrices; the log's 116 tokens a second on one core are 75 GFLOP/s.
CPU_FLOP_PER_S = 1.5e11
GPU_FLOP_PER_S = 5e13

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The base model's shape."""

    quantized_weights: int  # of the linear layers inside the decoder
    float_weights: int
    layers: int
    hidden: int
    intermediate: int
    key_value: int  # features of k, and of v
    vocabulary: int
    is_guess: bool = False  # from its size alone

    @property
    def sides(self) -> int:
        """Sum of N + K over all linear layers."""
        attention = 2 * self.hidden + 2 * (self.hidden + self.key_value) + 2 * self.hidden
        return self.layers * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    examples: int
    bytes: int

    @property
    def tokens_per_example(self) -> float:
        return max(1.0, self.bytes / max(1, self.examples) / BYTES_OF_A_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    device: Device
    memory_bytes: int | None = None  # of one device
    tokens_per_s: float | None = None  # measured on this base, in training


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    stage: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    device: Device
    stages: tuple[StageMemory, ...]
    steps: int  # of the optimizer
    tokens: int  # read in training
    training_s: float
    confidence: Literal["low", "medium"]
    warnings: tuple[str, ...] = field(default=())

    @property
    def peak(self) -> StageMemory:
        return max(self.stages, key=lambda stage: stage.bytes)


def estimate(spec: JobSpec, model: ModelFacts, data: DataFacts, worker: WorkerFacts) -> Estimate:
    """What the spec costs on this worker's device."""
    compute = 2 if worker.device == "cuda" else 4
    stages = [_quantizing(spec, model, compute)] if isinstance(spec.settings, QsftSettings | QuantizeSettings) else []
    training = _loop(spec)
    steps = tokens = 0
    seconds = 0.0
    if training is not None:
        length = min(float(training.max_length), data.tokens_per_example)
        examples = spec.trained_examples(data.examples)
        steps = planned_steps(training, examples)
        tokens = round(min(steps * training.batch_size, training.epochs * examples) * length)
        stages.append(_training(spec, training, model, length, compute))
        seconds = tokens / (worker.tokens_per_s or _tokens_per_s(spec, model, worker.device))
    stages.append(_evaluating(spec, model, compute))
    whole = tuple(_with_process(stage, worker.device) for stage in stages)
    found = Estimate(
        device=worker.device,
        stages=whole,
        steps=steps,
        tokens=tokens,
        training_s=seconds,
        confidence="low" if model.is_guess or worker.tokens_per_s is None else "medium",
    )
    return _with_warnings(found, spec, model, data, worker)


def planned_steps(training: Training | LoraTraining, examples: int) -> int:
    steps = training.epochs * math.ceil(examples / training.batch_size)
    return steps if training.max_steps is None else min(steps, training.max_steps)


def facts_of(quantized: QuantizationFacts) -> ModelFacts | None:
    """The base's shape, from what is known of a version that was made of it; None if its layers are not llama's."""
    weights: dict[str, int] = defaultdict(int)
    depths = set()
    for layer in quantized.layers:
        match = re.search(r"layers\.(\d+)\.(.+?)(#\d+)?$", layer.name)
        if match is None:
            return None
        depths.add(int(match[1]))
        if match[1] == "0":
            weights[match[2].rpartition(".")[2]] += layer.weights
    try:
        hidden = math.isqrt(weights["o_proj"])
        intermediate, key_value = weights["down_proj"] // hidden, weights["k_proj"] // hidden
    except ZeroDivisionError:
        return None
    if not intermediate or not key_value:
        return None
    return ModelFacts(
        quantized_weights=quantized.quantized_weights,
        float_weights=quantized.float_weights,
        layers=len(depths),
        hidden=hidden,
        intermediate=intermediate,
        key_value=key_value,
        vocabulary=max(1, quantized.float_weights // hidden),  # twice that if embedding and head are two matrices
    )


def weights_in_name(model: str) -> float | None:
    """How many weights a name such as hf:org/Name-1.5B-Instruct promises; None if it says nothing."""
    match = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])", model)
    return float(match[1]) * (1e9 if match[2] in "bB" else 1e6) if match else None


def guess_model(weights: float) -> ModelFacts:
    """The shape that decoders of this many weights tend to have: 12 H^2 a layer, one layer for each 128 features."""
    hidden = max(64, round((weights * 128 / 12) ** (1 / 3) / 64) * 64)
    layers = max(1, round(weights / (12 * hidden**2)))
    return ModelFacts(
        quantized_weights=round(weights),
        float_weights=2 * GUESSED_VOCABULARY * hidden,
        layers=layers,
        hidden=hidden,
        intermediate=round(hidden * 8 / 3),
        key_value=hidden // 4,
        vocabulary=GUESSED_VOCABULARY,
        is_guess=True,
    )


def _loop(spec: JobSpec) -> Training | LoraTraining | None:
    settings = spec.settings
    return settings.training if isinstance(settings, LoraSettings) else spec.training


def _group_size(spec: JobSpec) -> int:
    assert isinstance(spec.method, QsftMethod) or not isinstance(spec.settings, LoraSettings)
    quantization = spec.settings.quantization  # type: ignore[union-attr]  # the adapters' settings were ruled out
    if quantization.group_size is not None:
        return int(quantization.group_size)
    is_two_bit = isinstance(quantization, UniformQuantization) and quantization.bits == 2
    return 64 if is_two_bit or not isinstance(quantization, UniformQuantization) else 128


def _training(
    spec: JobSpec, training: Training | LoraTraining, model: ModelFacts, length: float, compute: int
) -> StageMemory:
    tokens = min(training.micro_batch_size or training.batch_size, training.batch_size) * length
    parts = _quantized_state(spec, training, model, compute) if isinstance(training, Training) else []
    if isinstance(training, LoraTraining):
        base = model.quantized_weights * (NF4_BYTES if isinstance(spec.method, QloraMethod) else compute)
        parts = [
            ("base weights", base),
            ("float weights", model.float_weights * compute),
            ("adapters", training.rank * model.sides * 16),
        ]
    parts += [
        ("activations", _activations(model, tokens, compute, is_recomputed=training.activation_checkpointing)),
        ("one dequantized weight", model.hidden * model.intermediate * (2 * compute + 8)),
        ("logits", _logits(model, tokens, compute)),
    ]
    return StageMemory(stage="training", parts=_parts(parts))


def _quantized_state(spec: JobSpec, training: Training, model: ModelFacts, compute: int) -> list[tuple[str, float]]:
    weights, groups = model.quantized_weights, model.quantized_weights / _group_size(spec)
    settings = training.optimizer
    parts = [
        ("codes", weights * 1.0),
        ("scales and zero points", groups * 3),
        ("float weights", model.float_weights * compute),
        ("scale optimizer", groups * 16),
        ("sketches and second moments", model.sides * 4 * (PROBES + 1)),
    ]
    if settings.mode == "residual":
        parts.append(("accumulators", weights * KIND_BYTES[settings.accumulator]))
    if settings.momentum == "low_rank":
        parts.append(("momentum", LOW_RANK * model.sides * 4))
    elif settings.momentum != "none" and settings.mode != "scales_only":
        parts.append(("momentum", weights * KIND_BYTES[settings.momentum]))
    return parts


def _activations(model: ModelFacts, tokens: float, compute: int, *, is_recomputed: bool) -> float:
    layer = tokens * (10 * model.hidden + 4 * model.key_value + 4 * model.intermediate) * compute
    return layer + tokens * model.layers * model.hidden * compute if is_recomputed else layer * model.layers


def _logits(model: ModelFacts, tokens: float, compute: int) -> float:
    return min(tokens, CHUNK_LOGITS // model.vocabulary) * model.vocabulary * (compute + 8)


def _quantizing(spec: JobSpec, model: ModelFacts, compute: int) -> StageMemory:
    layer = model.quantized_weights / max(1, model.layers)
    widest = max(model.hidden, model.intermediate)
    is_gptq = spec.settings.quantization.initial == "gptq"  # type: ignore[union-attr]  # not the adapters' settings
    return StageMemory(
        stage="quantizing",
        parts=_parts(
            [
                ("codes", model.quantized_weights * 1.0),
                ("one decoder layer", layer * (compute + 4)),
                ("Gram matrices", 24.0 * widest**2 if is_gptq else 0.0),
                ("embeddings", model.vocabulary * model.hidden * compute * 1.0),
            ]
        ),
    )


def _evaluating(spec: JobSpec, model: ModelFacts, compute: int) -> StageMemory:
    tokens = float(2 * spec.max_length)
    return StageMemory(
        stage="evaluating",
        parts=_parts(
            [
                ("the float base", (model.quantized_weights + model.float_weights) * compute * spec.needs_base * 1.0),
                ("codes", model.quantized_weights * (not spec.needs_base) * 1.0),
                ("float weights", model.float_weights * compute * (not spec.needs_base) * 1.0),
                ("activations of one layer", _activations(model, tokens, compute, is_recomputed=False) / model.layers),
                ("logits", _logits(model, tokens, compute)),
            ]
        ),
    )


def _parts(parts: list[tuple[str, float]]) -> tuple[Part, ...]:
    return tuple(Part(name=name, bytes=round(n_bytes)) for name, n_bytes in parts if n_bytes)


def _with_process(stage: StageMemory, device: Device) -> StageMemory:
    process = Part(name="process", bytes=900_000_000 if device == "cuda" else 400_000_000)
    return StageMemory(stage=stage.stage, parts=(*stage.parts, process))


def _tokens_per_s(spec: JobSpec, model: ModelFacts, device: Device) -> float:
    share = spec.training.optimizer.gradient_tokens if spec.training else 0.0
    flop = model.quantized_weights * (2 + 2 + 2 * share) + 4 * model.vocabulary * model.hidden
    return (GPU_FLOP_PER_S if device == "cuda" else CPU_FLOP_PER_S) / flop


def _with_warnings(found: Estimate, spec: JobSpec, model: ModelFacts, data: DataFacts, worker: WorkerFacts) -> Estimate:
    warnings = []
    if model.is_guess:
        warnings.append("the base model's shape is guessed from its size; a first job on it makes this exact")
    training = _loop(spec)
    if worker.memory_bytes is not None and found.peak.bytes > worker.memory_bytes:
        advice = "use a smaller base"
        if found.peak.stage == "training":
            advice = "lower micro_batch_size or max_length, or set activation_checkpointing"
        warnings.append(
            f"{found.peak.stage} needs about {found.peak.bytes / 1e9:.1f} GB, and the largest worker has "
            f"{worker.memory_bytes / 1e9:.1f} GB; {advice}"
        )
    if training is not None and data.tokens_per_example > training.max_length:
        warnings.append(
            f"examples have about {data.tokens_per_example:.0f} tokens on average, and max_length cuts them at "
            f"{training.max_length}"
        )
    if training is not None and 0 < found.steps < 20:
        warnings.append(f"only {found.steps} optimizer steps; fewer than 20 hardly move anything")
    return Estimate(
        device=found.device,
        stages=found.stages,
        steps=found.steps,
        tokens=found.tokens,
        training_s=found.training_s,
        confidence=found.confidence,
        warnings=tuple(warnings),
    )
