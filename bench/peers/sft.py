"""Fine-tuning by others and by us: every method sees the same examples, in the same order and the same batches.

    start          the calibrated checkpoint, not trained
    full           float fine-tuning of every weight, AdamW
    lora           adapters on the float base, peft
    lora-requant   the same adapters merged, then quantized again on the start's grids
    qlora          adapters on an NF4 base, peft and bitsandbytes
    scales_only    DiodeMix without codes
    adam_rtn       the published tools' rule: AdamW on the dequantized weight, rounded to the nearest code every step
    adam_rtn+      the same with our training of scales and norms beside it
    residual       DiodeMix with codes, by its rule residual

Bytes are those of the result as it would be stored: quantized layers packed, everything else in 16 bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.spec import DiodeMix as DiodeMixSettings
from bitsmith_core.spec import LoraTraining, Training
from bitsmith_engine.data.batching import collate
from bitsmith_engine.data.examples import Example
from bitsmith_engine.models.forward import Places, hidden_at, token_losses
from bitsmith_engine.models.opening import Base, load_float
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.ports import Silent
from bitsmith_engine.quant.plan import Plans
from bitsmith_engine.runtime import Runtime
from bitsmith_engine.train.adapters import (
    NF4_BITS_PER_WEIGHT,
    AdapterResult,
    linear_names,
    merged_tensors,
    save_adapter,
    train_adapter,
)
from torch import Tensor

from peers import ours

RATES = {
    "full": 2e-5,
    "lora": 5e-4,
    "lora-requant": 5e-4,
    "qlora": 5e-4,
}
"""Peak learning rates unless told otherwise; DiodeMix's are those of its spec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    base: Base
    plans: Plans
    tokens_BT: Tensor  # what the start was calibrated on
    calibration: ours.Calibration
    requantization: ours.Calibration  # of lora-requant
    cache: Path
    examples: Sequence[Example]
    plan: Sequence[Sequence[int]]
    batch_size: int
    warmup_fraction: float
    runtime: Runtime
    seed: int
    rates: Mapping[str, float]
    diodemix: Mapping[str, Any]  # changes to DiodeMix's defaults

    def start(self) -> ours.Calibrated:
        return ours.calibrated(
            self.base, self.plans, self.tokens_BT, self.calibration, self.runtime, seed=0, folder=self.cache
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    model: Any  # a causal LM
    bytes: int
    facts: Mapping[str, float]


def start(task: Task) -> Result:
    parameters, rest, _ = task.start()
    model = load_quantized(task.base, parameters, task.runtime, rest)
    return Result(model=model, bytes=ours.stored_bytes(task.base, parameters, model), facts={})


def full(task: Task) -> Result:
    model = load_float(task.base, task.runtime).requires_grad_(True)
    rate = task.rates["full"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = Schedule(steps=len(task.plan), warmup_fraction=task.warmup_fraction)
    for number, indices in enumerate(task.plan):
        batch = collate([task.examples[index] for index in indices], task.runtime.device)
        hidden_AH = hidden_at(model, batch.tokens_BT, Places(batch.row_A, batch.column_A, batch.target_A))
        token_losses(model, hidden_AH, batch.target_A).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = rate * schedule.factor(number)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return Result(model=model, bytes=2 * _numbers(model), facts={"rate": rate})


def lora(task: Task) -> Result:
    result = _adapter(task, "lora", nf4=False)
    model = result.model.get_base_model()
    return Result(model=model, bytes=2 * _numbers(model), facts={"rate": task.rates["lora"]})


def lora_requant(task: Task) -> Result:
    made_of = [task.seed, task.rates["lora-requant"], task.plan, task.examples]
    folder = task.cache / f"adapter-{ours.digest(made_of)}"
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(_adapter(task, "lora-requant", nf4=False), folder)
    merged = replace(task.base, weights=_Merged(dict(merged_tensors(task.base, folder, dtype=torch.float32))))
    parameters, rest, _ = ours.calibrated(
        merged, task.plans, task.tokens_BT, task.requantization, task.runtime,
        seed=0, folder=task.cache, origin=folder.name,
    )  # fmt: skip
    model = load_quantized(merged, parameters, task.runtime, rest)
    bytes_ = ours.stored_bytes(merged, parameters, model)
    return Result(model=model, bytes=bytes_, facts={"rate": task.rates["lora-requant"]})


def qlora(task: Task) -> Result:
    result = _adapter(task, "qlora", nf4=True)
    quantized = sum(task.base.weights.get(f"{name}.weight").numel() for name in linear_names(task.base))
    adapters = sum(parameter.numel() for name, parameter in result.model.named_parameters() if "lora_" in name)
    floats = _numbers(load_float(task.base, task.runtime)) - quantized
    bytes_ = round(quantized * NF4_BITS_PER_WEIGHT / 8) + 2 * (floats + adapters)
    return Result(model=result.model.get_base_model(), bytes=bytes_, facts={"rate": task.rates["qlora"]})


def _diodemix(**changes: Any) -> Callable[[Task], Result]:
    def run(task: Task) -> Result:
        chosen = dict(task.diodemix) | changes
        start = task.start()
        training = Training(
            batch_size=task.batch_size, packing=False, warmup_fraction=task.warmup_fraction, max_rollbacks=0
        )
        model, facts = ours.tune(
            task.base, start, DiodeMixSettings.model_validate(chosen), training, task.examples, task.plan,
            task.runtime, seed=task.seed,
        )  # fmt: skip
        return Result(model=model, bytes=ours.stored_bytes(task.base, start.parameters, model), facts=facts)

    return run


METHODS: dict[str, Callable[[Task], Result]] = {
    "start": start,
    "full": full,
    "lora": lora,
    "lora-requant": lora_requant,
    "qlora": qlora,
    "scales_only": _diodemix(mode="scales_only"),
    # A rate of zero is no rate to the spec; this one moves no scale by a bit of its float16.
    "adam_rtn": _diodemix(mode="adam_rtn", momentum="float32", scale_learning_rate=1e-12, float_learning_rate=0.0),
    "adam_rtn+": _diodemix(mode="adam_rtn", momentum="float32"),
    "residual": _diodemix(mode="residual"),
}


class _Merged:
    """Float weights that are no file's."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def get(self, name: str) -> Tensor:
        return self._tensors[name]


def _adapter(task: Task, name: str, *, nf4: bool) -> AdapterResult:
    settings = LoraTraining(
        batch_size=task.batch_size,
        warmup_fraction=task.warmup_fraction,
        rank=16,
        alpha=32.0,
        learning_rate=task.rates[name],
    )
    return train_adapter(
        task.base, settings, nf4=nf4, examples=task.examples, plan=task.plan, runtime=task.runtime,
        observer=Silent(), seed=task.seed, held_out=[],
    )  # fmt: skip


def _numbers(model: Any) -> int:
    """Of all parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
