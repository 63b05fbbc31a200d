"""The loop that trains adapters, by AdamW. The loss is the mean over all learned tokens of a batch, as Q-SFT's.

stop:      a checkpoint first; a run continued from it equals the undisturbed one, on a CPU bit for bit
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.bundle import TrainingFacts
from bitsmith_core.spec import EarlyStopping, LoraTraining
from torch import Tensor, nn

from bitsmith_engine.data.batching import collate
from bitsmith_engine.data.examples import Example
from bitsmith_engine.errors import BadData, BadModel, Diverged, Stopped
from bitsmith_engine.evaluate.perplexity import answer_losses
from bitsmith_engine.models.opening import CausalLM
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Runtime, Single
from bitsmith_engine.train.checkpoint import (
    Checkpoint,
    Checkpoints,
    History,
    OnCheckpoint,
    identity,
    random_state,
    set_random_state,
)
from bitsmith_engine.train.early_stopping import spread
from bitsmith_engine.train.step import Step, batch_loss, losses_at_ends
from bitsmith_engine.train.weights import with_prefix, without_prefix

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def train_loop(
    model: Any,
    settings: LoraTraining,
    examples: Sequence[Example],
    plan: Sequence[Sequence[int]],
    runtime: Runtime,
    observer: Observer,
    held_out: Sequence[Example],
    *,
    mode: str,
    seed: int,
    checkpoints: Path | None,
    on_checkpoint: OnCheckpoint | None,
) -> TrainingFacts:
    """Run the plan; whatever of the model wants gradients changes in place.

    Args:
        model: a peft model.
        checkpoints: a folder of this run's own to continue from; without one it starts anew.
        on_checkpoint: hears of each one: how many steps are done, its folder, what was measured then.

    Raises:
        BadData: early stopping has nothing to look at.
        BadModel: no gradient reaches an adapter.
        Diverged: a loss was NaN or infinite; no update was made from it.
        Stopped: between two steps, after a checkpoint.
    """
    run = _Run(model, settings, examples, plan, runtime, observer, held_out, on_checkpoint)
    if checkpoints is not None:
        # Not what a later attempt may do otherwise because an earlier one failed: smaller micro-batches.
        fixed = settings.model_dump(mode="json", exclude={"micro_batch_size"})
        key = identity(fixed, plan, [mode, seed], examples, held_out)
        run.continue_from(Checkpoints(checkpoints, key, Single(), runtime.device))
    return _facts(run.run(), plan, mode=mode)


class _Run:
    def __init__(
        self,
        model: Any,
        settings: LoraTraining,
        examples: Sequence[Example],
        plan: Sequence[Sequence[int]],
        runtime: Runtime,
        observer: Observer,
        held_out: Sequence[Example],
        on_checkpoint: OnCheckpoint | None,
    ) -> None:
        self._model, self._settings = model, settings
        self._examples, self._plan = examples, plan
        self._runtime, self._observer, self._on_checkpoint = runtime, observer, on_checkpoint
        self._adapters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._adapters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._schedule = Schedule(steps=len(plan), warmup_fraction=settings.warmup_fraction)
        self._history = History()
        self._stopping = None
        if settings.early_stopping is not None:
            self._stopping = _Stopping(settings.early_stopping, model, self._adapters, held_out, runtime)
        self._checkpoints: Checkpoints | None = None

    def continue_from(self, checkpoints: Checkpoints) -> None:
        """From the newest one, if there is any; later ones go there."""
        self._checkpoints = checkpoints
        found = checkpoints.load()
        if found is None:
            return
        self._history = found.history
        _copy(found.weights, self._adapters)
        if self._stopping is not None:
            self._stopping.best = without_prefix("best.", found.weights)
        self._load_moments(found.own)
        set_random_state(found.own, self._runtime)
        self._observer.note("info", f"training continues after step {self._history.done} of {len(self._plan)}")

    def run(self) -> list[Step]:
        while self._history.done < len(self._plan) and not self._is_over():
            self._one_step()
        if self._stopping is not None:
            if self._is_over():
                self._observer.note(
                    "info",
                    f"stopped after {self._history.done} steps: the validation loss has not fallen below "
                    f"{self._history.best_loss or math.inf:.4f} in {self._history.looks_since_best} looks",
                )
            _copy(self._stopping.best, self._adapters)
        return self._history.steps

    def _is_over(self) -> bool:
        return self._stopping is not None and self._stopping.is_over(self._history)

    def _one_step(self) -> None:
        began = time.perf_counter()
        number = self._history.done
        chosen = [self._examples[index] for index in self._plan[number]]
        micro_size = self._settings.micro_batch_size or self._settings.batch_size
        step = _backward(self._model, self._adapters, number, chosen, micro_size, self._runtime)
        rate = self._schedule.factor(number) * self._settings.learning_rate
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._history.steps.append(step)
        metrics = {"loss": step.loss, "lr": rate, "tokens_per_s": step.read / (time.perf_counter() - began)}
        if self._stopping is not None:
            self._stopping.look(self._history)

        stopped = None
        try:
            self._observer.progress(number + 1, len(self._plan), metrics)
        except Stopped as error:
            stopped = error
        if stopped or (number + 1) % self._settings.checkpoint_steps == 0:
            self._save(metrics)
        if stopped:
            raise stopped

    def _save(self, metrics: Mapping[str, float]) -> None:
        if self._checkpoints is None:
            return
        weights: dict[str, Tensor] = {name: parameter.detach() for name, parameter in self._adapters.items()}
        if self._stopping is not None:
            weights |= with_prefix("best.", self._stopping.best)
        own = self._moments() | random_state(self._runtime)
        folder = self._checkpoints.save(Checkpoint(self._history, weights, own))
        if self._on_checkpoint is not None:
            self._on_checkpoint(self._history.done, folder, metrics)

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{moment}.{name}": self._optimizer.state[parameter][moment]
            for name, parameter in self._adapters.items()
            for moment in _MOMENTS
        }

    def _load_moments(self, saved: Mapping[str, Tensor]) -> None:
        state = self._optimizer.state_dict()
        state["state"] = {
            index: {moment: saved[f"{moment}.{name}"] for moment in _MOMENTS}
            for index, name in enumerate(self._adapters)
        }
        self._optimizer.load_state_dict(state)


class _Stopping:
    """Looks at held-out examples from time to time and remembers the best adapter; the history says when."""

    def __init__(
        self,
        settings: EarlyStopping,
        model: Any,
        adapters: dict[str, nn.Parameter],
        held_out: Sequence[Example],
        runtime: Runtime,
    ) -> None:
        if not held_out:
            raise BadData("early_stopping looks at validation examples, and there is none; leave early_stopping out")
        self._settings, self._model, self._adapters = settings, model, adapters
        self._examples, self._runtime = spread(held_out, settings.examples), runtime
        self.best: dict[str, Tensor] = {}

    def look(self, history: History) -> None:
        """When it is time to."""
        if history.done % self._settings.every_steps:
            return
        with _scoring(self._model) as causal_lm:
            found = [
                loss for batch in answer_losses(causal_lm, self._examples, self._runtime) for loss in batch.values()
            ]
        loss = math.fsum(item.nll for item in found) / sum(item.tokens for item in found)
        if loss < (math.inf if history.best_loss is None else history.best_loss):
            history.best_loss, history.best_step, history.looks_since_best = loss, history.done, 0
            self.best = {name: parameter.detach().clone() for name, parameter in self._adapters.items()}
        else:
            history.looks_since_best += 1

    def is_over(self, history: History) -> bool:
        return history.looks_since_best >= self._settings.patience


@contextmanager
def _scoring(model: Any) -> Iterator[CausalLM]:
    """Without dropout, but never with bitsandbytes' layers in evaluation mode: see train.adapters."""
    model.eval()
    for module in model.modules():
        if type(module).__module__.startswith("bitsandbytes"):
            module.train()
    yield model.get_base_model()
    model.train()


def _backward(
    model: Any, adapters: dict[str, nn.Parameter], number: int, chosen: list[Example], micro_size: int, runtime: Runtime
) -> Step:
    """Leave the gradient of the mean loss over all learned tokens of the batch in the adapters."""
    causal_lm = model.get_base_model()
    micro_batches = [
        collate(chosen[start : start + micro_size], runtime.device) for start in range(0, len(chosen), micro_size)
    ]
    learned = sum(batch.num_learned for batch in micro_batches)
    loss = 0.0
    for batch in micro_batches:
        share = batch_loss(causal_lm, batch) / learned
        loss += share.item()
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} at step {number + 1}; lower learning_rate, or lengthen the warm-up")
        share.backward()  # type: ignore[no-untyped-call]  # torch types it not
    lost = [name for name, parameter in adapters.items() if parameter.grad is None]
    if lost:
        raise BadModel(
            f"no gradient reached {len(lost)} of {len(adapters)} adapter weights at step {number + 1}, such as "
            f"{lost[0]}: this build of bitsandbytes cannot train on this machine; use the method lora, or a GPU"
        )
    return Step(loss, learned, sum(len(example.ids) for example in chosen))


def _copy(tensors: Mapping[str, Tensor], adapters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in adapters.items():
        if name in tensors:
            parameter.data.copy_(tensors[name])


def _facts(steps: list[Step], plan: Sequence[Sequence[int]], *, mode: str) -> TrainingFacts:
    first_loss, last_loss = losses_at_ends(steps)
    return TrainingFacts(
        optimizer="adamw",
        mode=mode,
        steps=len(steps),
        examples=sum(len(indices) for indices in plan[: len(steps)]),
        tokens=sum(step.learned for step in steps),
        first_loss=first_loss,
        last_loss=last_loss,
        flips=0,
        flip_rate=0.0,
        flip_budget=0.0,
    )
