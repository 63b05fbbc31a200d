"""Q-SFT: supervised fine-tuning of codes and scales on the assistant's tokens.

A step's loss is the mean over all learned tokens of its batch, however it is split into micro-batches.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from bitsmith_core.bundle import TrainingFacts
from bitsmith_core.spec import Training

from bitsmith_engine.data.batching import collate, epoch_order
from bitsmith_engine.data.examples import Example
from bitsmith_engine.errors import Diverged
from bitsmith_engine.models.forward import Places, hidden_at, token_losses
from bitsmith_engine.nn.swap import attach_sink
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Runtime

_FLIPS_EXPECTED_AFTER = 20  # steps; a shorter run may end before any residual has reached its boundary


class Step(NamedTuple):
    loss: float  # nats per learned token
    learned: int  # tokens with a loss
    read: int  # all tokens, padding too


def plan_steps(examples: Sequence[Example], training: Training, *, seed: int) -> list[list[int]]:
    """Which examples each optimizer step sees."""
    lengths = [len(example.ids) for example in examples]
    plan: list[list[int]] = []
    for epoch in range(training.epochs):
        plan += epoch_order(lengths, training.batch_size, seed=seed, epoch=epoch)
        if training.max_steps is not None and len(plan) >= training.max_steps:
            return plan[: training.max_steps]
    return plan


def train(
    model: Any,
    optimizer: DiodeMix,
    examples: Sequence[Example],
    plan: Sequence[Sequence[int]],
    training: Training,
    runtime: Runtime,
    observer: Observer,
) -> TrainingFacts:
    """Run the plan; the model's quantized weights change in place.

    Raises:
        Diverged: a loss was NaN or infinite; no update was made from it.
        Stopped: between two steps.
    """
    attach_sink(model, optimizer)
    steps: list[Step] = []
    for number, indices in enumerate(plan):
        began = time.perf_counter()
        micro_size = training.micro_batch_size or training.batch_size
        step = _step(model, optimizer, number, [examples[index] for index in indices], micro_size, runtime)
        report = optimizer.finish()
        steps.append(step)
        observer.progress(
            number + 1,
            len(plan),
            {
                "loss": step.loss,
                "lr": optimizer.rate_factor(number) * training.optimizer.scale_learning_rate,
                "flips": report.total_flips,
                "flip_rate": report.total_flips / optimizer.total_codes,
                "flip_candidates": report.candidates,
                "saturation": report.saturated / optimizer.total_codes,
                "tokens_per_s": step.read / (time.perf_counter() - began),
            },
        )
    attach_sink(model, None)
    _warn_if_nothing_flipped(optimizer, training, len(plan), observer)
    return _facts(steps, optimizer, training, plan)


def _step(
    model: Any, optimizer: DiodeMix, number: int, chosen: list[Example], micro_size: int, runtime: Runtime
) -> Step:
    micro_batches = [
        collate(chosen[start : start + micro_size], runtime.device) for start in range(0, len(chosen), micro_size)
    ]
    learned = sum(batch.num_learned for batch in micro_batches)
    optimizer.start(number, len(micro_batches))
    loss = 0.0
    for batch in micro_batches:
        hidden_AH = hidden_at(model, batch.tokens_BT, Places(batch.row_A, batch.column_A, batch.target_A))
        share = token_losses(model, hidden_AH, batch.target_A).sum() / learned
        loss += share.item()
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} at step {number + 1}; lower scale_learning_rate and code_learning_rate, "
                "or lengthen the warm-up"
            )
        share.backward()  # type: ignore[no-untyped-call]  # torch types it not
    return Step(loss, learned, sum(batch.num_tokens for batch in micro_batches))


def _warn_if_nothing_flipped(optimizer: DiodeMix, training: Training, steps: int, observer: Observer) -> None:
    settings = training.optimizer
    if settings.mode == "residual" and settings.flip_budget > 0 and not optimizer.total_flips:
        is_short = steps < _FLIPS_EXPECTED_AFTER
        hint = "the run was short" if is_short else "raise code_learning_rate, or use mode scales_only"
        observer.note("warn", f"no code moved in {steps} steps, only scales were trained: {hint}")


def _facts(steps: list[Step], optimizer: DiodeMix, training: Training, plan: Sequence[Sequence[int]]) -> TrainingFacts:
    # One batch's loss says little: the ends are means over a tenth of the run.
    tenth = max(1, len(steps) // 10)
    return TrainingFacts(
        optimizer="diodemix",
        mode=training.optimizer.mode,
        steps=len(steps),
        examples=sum(len(indices) for indices in plan),
        tokens=sum(step.learned for step in steps),
        first_loss=_mean_loss(steps[:tenth]),
        last_loss=_mean_loss(steps[-tenth:]),
        flips=optimizer.total_flips,
        flip_rate=optimizer.total_flips / optimizer.total_codes,
        flip_budget=training.optimizer.flip_budget if training.optimizer.mode == "residual" else 0.0,
    )


def _mean_loss(steps: list[Step]) -> float:
    return sum(step.loss * step.learned for step in steps) / sum(step.learned for step in steps)
