"""Bundles that look like an engine's: layers with bits, stages, and scores counted from items. Made up, from a seed."""

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitsmith_core.bundle import (
    AnswerLoss,
    BenchmarkItems,
    ChoiceScores,
    DocumentAnswer,
    Environment,
    Evals,
    FileEntry,
    LayerBits,
    Manifest,
    QuantizationFacts,
    Score,
    StageFacts,
    Subject,
    SubjectItems,
    TrainingFacts,
)
from bitsmith_core.spec.references import base_slug


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    reference: str
    layers: int
    hidden: int
    inner: int
    heads_share: float  # of the key and value projections' width
    vocabulary: int
    skill: float  # log odds of a right answer to a question of middling difficulty

    @property
    def slug(self) -> str:
        return base_slug(self.reference)

    @property
    def modules(self) -> dict[str, int]:
        """Weights of each linear layer of a decoder layer."""
        square, narrow = self.hidden**2, int(self.hidden**2 * self.heads_share)
        mlp = self.hidden * self.inner
        return {
            "self_attn.q_proj": square, "self_attn.k_proj": narrow, "self_attn.v_proj": narrow,
            "self_attn.o_proj": square, "mlp.gate_proj": mlp, "mlp.up_proj": mlp, "mlp.down_proj": mlp,
        }  # fmt: skip


BASES = [
    Base(reference="hf:Qwen/Qwen3-8B", layers=36, hidden=4096, inner=12288, heads_share=0.25, vocabulary=151936,
         skill=1.75),
    Base(reference="hf:meta-llama/Llama-3.2-3B-Instruct", layers=28, hidden=3072, inner=8192, heads_share=1 / 3,
         vocabulary=128256, skill=1.35),
    Base(reference="hf:mistralai/Ministral-8B-Instruct-2410", layers=36, hidden=4096, inner=12288, heads_share=0.25,
         vocabulary=131072, skill=1.6),
    Base(reference="hf:HuggingFaceTB/SmolLM2-1.7B-Instruct", layers=24, hidden=2048, inner=8192, heads_share=1.0,
         vocabulary=49152, skill=1.0),
    Base(reference="hf:google/gemma-3-4b-it", layers=34, hidden=2560, inner=10240, heads_share=0.4, vocabulary=262144,
         skill=1.45),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    scheme: str | None
    bpw: float | None
    method: str = "qsft"
    gain: float = 0.0  # how much of what quantization lost training brings back, and of the task it learns
    resumed: bool = False

    @property
    def quantization(self) -> dict[str, Any]:
        if self.scheme == "uniform":
            assert self.bpw is not None
            return {"scheme": "uniform", "bits": int(self.bpw)}
        return {"scheme": self.scheme, "bpw": self.bpw}

    @property
    def subject(self) -> Subject:
        found: dict[str, Subject] = {"quantize": "quantized", "qsft": "qsft", "lora": "lora", "qlora": "qlora"}
        return found[self.method]


TASKS = {"answer_choice": 160, "arc_easy": 240, "boolq": 240, "piqa": 240}
_HARDER = {"answer_choice": 0.2, "arc_easy": 0.1, "boolq": 0.3, "piqa": 0.45}


def bundle(base: Base, recipe: Recipe, *, seed: int) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and the contents of its small files; weights are named, not made."""
    draw = random.Random(seed)
    evals = _evals(base, recipe, draw)
    facts = _quantization(base, recipe, draw) if recipe.bpw is not None else None
    contents = {
        "config.json": json.dumps({"base": base.reference, "num_hidden_layers": base.layers}, indent=1).encode(),
        "evals.json": evals.model_dump_json().encode(),
        "tokenizer.json": json.dumps({"vocabulary": base.vocabulary}).encode(),
    }
    weights = facts.model_bytes if facts else 2 * _all_weights(base)
    files = [
        FileEntry(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in contents.items()
    ]
    files.append(FileEntry(path="model.safetensors", bytes=weights, sha256=f"{draw.getrandbits(256):064x}"))
    if facts:
        merged = 2 * _all_weights(base)
        files.append(FileEntry(path="bf16/model.safetensors", bytes=merged, sha256=f"{draw.getrandbits(256):064x}"))
    manifest = Manifest(
        base_model=base.reference,
        spec_sha256=f"{draw.getrandbits(256):064x}",
        files=sorted(files, key=lambda file: file.path),
        quantization=facts,
        training=_training(recipe, draw),
        stages=_stages(recipe, draw),
        scores=evals.scores,
        environment=Environment(engine="0.1.0", torch="2.13.0", transformers="5.23.0", device="cuda", seed=0),
    )
    return manifest, contents


def _all_weights(base: Base) -> int:
    return base.layers * sum(base.modules.values()) + base.vocabulary * base.hidden


def _quantization(base: Base, recipe: Recipe, draw: random.Random) -> QuantizationFacts:
    assert recipe.bpw is not None
    assert recipe.scheme is not None
    layers = []
    for layer in range(base.layers):
        edge = 1 + 2.2 * math.exp(-layer / 2) + 1.4 * math.exp(-(base.layers - 1 - layer) / 2)
        for module, weights in base.modules.items():
            kind = {"o_proj": 0.7, "down_proj": 1.5, "v_proj": 1.3}.get(module.rpartition(".")[2], 1.0)
            sensitivity = 0.012 * edge * kind * math.exp(draw.gauss(0, 0.25))
            layers.append((f"model.layers.{layer}.{module}", weights, sensitivity))
    widths = _allocated(recipe, layers)
    total = sum(weights for _, weights, _ in layers)
    codes = sum(weights * bits for (_, weights, _), bits in zip(layers, widths, strict=True))
    overhead = 0.28 if recipe.bpw < 3 else 0.16
    quantized = int((codes + overhead * total) / 8)
    head = base.vocabulary * base.hidden
    return QuantizationFacts(
        scheme=recipe.scheme,
        bpw_codes=round(codes / total, 4),
        bpw_effective=round(codes / total + overhead, 4),
        quantized_weights=total,
        float_weights=head,
        quantized_bytes=quantized,
        model_bytes=quantized + 2 * head,
        float_bytes=2 * (total + head),
        layers=[
            LayerBits(
                name=name, bits=bits, group_size=64 if bits == 2 else 128, weights=weights,
                sensitivity=None if recipe.scheme == "uniform" else round(sensitivity, 5),
            )
            for (name, weights, sensitivity), bits in zip(layers, widths, strict=True)
        ],
    )  # fmt: skip


def _allocated(recipe: Recipe, layers: Sequence[tuple[str, int, float]]) -> list[int]:
    """Four bits for the most sensitive until the budget is spent, two for the rest."""
    assert recipe.bpw is not None
    if recipe.scheme == "uniform":
        return [int(recipe.bpw)] * len(layers)
    budget = (recipe.bpw - 2) * sum(weights for _, weights, _ in layers)
    widths = [2] * len(layers)
    for at in sorted(range(len(layers)), key=lambda at: -layers[at][2] / layers[at][1]):
        cost = 2 * layers[at][1]
        if cost <= budget:
            widths[at] = 4
            budget -= cost
    return widths


def _training(recipe: Recipe, draw: random.Random) -> TrainingFacts | None:
    if recipe.method == "quantize":
        return None
    flips = draw.randrange(400_000, 2_000_000) if recipe.method == "qsft" else 0
    return TrainingFacts(
        optimizer="diodemix" if recipe.method == "qsft" else "adamw",
        mode="residual" if recipe.method == "qsft" else recipe.method,
        steps=400 if recipe.resumed else 240,
        examples=7680,
        tokens=draw.randrange(1_400_000, 2_600_000),
        first_loss=2.03 + draw.gauss(0, 0.03),
        last_loss=2.02 - 1.08 * recipe.gain + draw.gauss(0, 0.03),
        flips=flips,
        flip_rate=flips / 6.9e8,
        flip_budget=0.01,
    )


def _stages(recipe: Recipe, draw: random.Random) -> list[StageFacts]:
    names = ["measuring", "quantizing", "calibrating", "training", "evaluating", "exporting"]
    skipped = {"quantize": {"training"}, "lora": {"measuring", "quantizing", "calibrating"}}
    skipped["qlora"] = skipped["lora"]
    return [
        StageFacts(stage=name, wall_s=draw.uniform(40, 2400), peak_memory_bytes=draw.randrange(6, 19) * 10**9,
                   resumed=recipe.resumed and name in {"measuring", "quantizing"})
        for name in names if name not in skipped.get(recipe.method, set())
    ]  # fmt: skip


def _evals(base: Base, recipe: Recipe, draw: random.Random) -> Evals:
    """The float base, the quantized model and the trained one, asked the same questions."""
    lost = 0.0 if recipe.bpw is None else 1.6 * math.exp(-1.35 * (recipe.bpw - 1.6))
    steps: list[tuple[Subject, float, float]] = [("float", base.skill, 0.0)]
    if recipe.bpw is not None:
        steps.append(("quantized", base.skill - lost, lost))
    if recipe.method != "quantize":
        learned = 0.25 * recipe.gain
        steps.append((recipe.subject, base.skill - lost * (1 - recipe.gain) + learned, lost * (1 - recipe.gain) - 0.3))
    items = [_asked(base, subject, skill, worse, draw) for subject, skill, worse in steps]
    return Evals(scores=[score for one in items for score in _scores(base, one)], items=items)


def _asked(base: Base, subject: Subject, skill: float, worse: float, draw: random.Random) -> SubjectItems:
    """Documents have a difficulty of their own, the same for everybody who is asked; answers add a little luck."""
    benchmarks = []
    choices = []
    for task, count in TASKS.items():
        fixed = random.Random(f"{base.reference} {task}")
        answers = []
        for doc in range(count):
            margin = skill - _HARDER[task] - fixed.gauss(0, 1.4) + draw.gauss(0, 0.35)
            answers.append(
                DocumentAnswer(task=task, doc=doc, correct={"acc": margin > 0}, scores=[round(margin, 3), 0.0])
            )
        if task == "answer_choice":
            choices = [ChoiceScores(scores=[-1.0, -1.0 - a.scores[0], -3.0, -3.5], correct=0) for a in answers]
        else:
            benchmarks.append(BenchmarkItems(task=task, comparable_key=_key(base, task), answers=answers))
    fixed = random.Random(f"{base.reference} perplexity")
    losses = []
    for _ in range(120):
        tokens = fixed.randrange(12, 90)
        nats = max(0.2, 1.62 - base.skill / 4 + fixed.gauss(0, 0.25) + 0.22 * worse + draw.gauss(0, 0.03))
        losses.append(AnswerLoss(nll=round(nats * tokens, 4), tokens=tokens))
    return SubjectItems(subject=subject, answer_perplexity=losses, answer_choice=choices, benchmarks=benchmarks)


def _scores(base: Base, items: SubjectItems) -> list[Score]:
    tokens = sum(loss.tokens for loss in items.answer_perplexity)
    mean = sum(loss.nll for loss in items.answer_perplexity) / tokens
    spread = math.sqrt(sum((loss.nll - mean * loss.tokens) ** 2 for loss in items.answer_perplexity)) / tokens
    value = math.exp(mean)
    rights = {"answer_choice": [one.is_right for one in items.answer_choice]}
    rights |= {one.task: [answer.correct["acc"] for answer in one.answers] for one in items.benchmarks}
    perplexity = Score(
        subject=items.subject, task="answer_perplexity", metric="perplexity", value=value, stderr=value * spread,
        n=tokens, n_unit="tokens", higher_is_better=False, comparable_key=_key(base, "perplexity"),
    )  # fmt: skip
    return [perplexity, *(_share(base, items.subject, task, right) for task, right in rights.items())]


def _share(base: Base, subject: Subject, task: str, right: Sequence[bool]) -> Score:
    share = sum(right) / len(right)
    return Score(
        subject=subject, task=task, metric="accuracy" if task == "answer_choice" else "acc", value=share,
        stderr=math.sqrt(share * (1 - share) / (len(right) - 1)), n=len(right), n_unit="questions",
        higher_is_better=True, comparable_key=_key(base, task),
    )  # fmt: skip


def _key(base: Base, task: str) -> str:
    """The template is part of what was asked, so different bases were asked differently."""
    return hashlib.sha256(f"{base.reference} {task}".encode()).hexdigest()[:32]
