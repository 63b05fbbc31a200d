"""The toy model ready to train, and what a training run made of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from bitsmith_core.bundle import TrainingFacts
from bitsmith_core.spec import Training
from bitsmith_engine.calibrate.start import round_base
from bitsmith_engine.data.examples import Example, load_examples
from bitsmith_engine.models.opening import Base, open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.ports import Silent
from bitsmith_engine.quant.storage import Parameters
from bitsmith_engine.runtime import Ranks, Runtime
from bitsmith_engine.train.loop import plan_steps, train

CPU = Runtime(device=torch.device("cpu"), compute_dtype=torch.float32)


class Listener(Silent):
    """Keeps what it is told, and does something after a step."""

    def __init__(self, after: Callable[[int], None] = lambda done: None) -> None:
        self.messages: list[str] = []
        self.metrics: list[Mapping[str, float]] = []
        self._after = after

    def progress(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        self.metrics.append(metrics or {})
        self._after(done)

    def note(self, level: Literal["info", "warn"], message: str) -> None:
        self.messages.append(message)


@dataclass(frozen=True)
class Toy:
    model: Any
    parameters: Parameters
    optimizer: DiodeMix
    training: Training
    examples: list[Example]
    held_out: list[Example]
    runtime: Runtime
    ranks: Ranks | None

    def train(self, observer: Silent, *, train_norms: bool = False, checkpoints: Path | None = None) -> TrainingFacts:
        norms = [parameter for name, parameter in self.model.named_parameters() if "norm" in name]
        return train(
            self.model,
            self.optimizer,
            self.examples,
            plan_steps(self.examples, self.training, seed=0),
            self.training,
            self.runtime,
            observer,
            held_out=self.held_out,
            checkpoints=checkpoints,
            floats=norms if train_norms else (),
            float_learning_rate=1e-2,
            ranks=self.ranks,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that training may have changed."""
        tensors = {name: tensor for name, tensor in self.model.named_parameters() if "anchor" not in name}
        for name, parameter in self.parameters.items():
            tensors |= {f"{name}.codes": parameter.codes_NK, f"{name}.scales": parameter.scale_NG}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def toy(inputs: Path, *, runtime: Runtime = CPU, ranks: Ranks | None = None, **settings: Any) -> Toy:
    base, start = _quantized(inputs)
    parameters = {name: parameter.to(runtime.device) for name, parameter in start.items()}
    # All tokens: what a sample of them is depends on how a batch is split.
    optimizer_settings = {
        "mode": "residual",
        "code_learning_rate": 2e-3,
        "flip_budget": 0.05,
        "accumulator": "float32",
        "gradient_tokens": 1.0,
    }
    optimizer_settings |= settings.pop("optimizer", {})
    training = Training.model_validate({"batch_size": 8, "optimizer": optimizer_settings} | settings)
    examples, held_out = list(_examples(inputs, "training")), list(_examples(inputs, "validation"))
    steps = len(plan_steps(examples, training, seed=0))
    optimizer = DiodeMix(
        parameters,
        training.optimizer,
        Schedule(steps=steps, warmup_fraction=training.warmup_fraction),
        seed=0,
        float_weight=lambda name: base.weights.get(f"{name}.weight"),
        ranks=ranks,
    )
    model = load_quantized(base, parameters, runtime)
    return Toy(model, parameters, optimizer, training, examples, held_out, runtime, ranks)


def never_learned() -> Example:
    """Tokens that no training example has: the more is learned, the less likely they become."""
    return Example(tuple(range(200, 220)), (True,) * 20, 1, "", False)


@cache
def _quantized(inputs: Path) -> tuple[Base, Parameters]:
    base = open_base(inputs / "model")
    return base, round_base(base, 4, CPU)


@cache
def _examples(inputs: Path, name: str) -> list[Example]:
    base, _ = _quantized(inputs)
    return load_examples(inputs / f"{name}.jsonl", base.tokenizer, max_length=64, observer=Silent())
