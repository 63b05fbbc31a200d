"""Q-SFT: supervised fine-tuning of codes, scales and, if wanted, norms on the assistant's tokens.

step:      forward and backward passes -> update -> now and then a review of flips, a look at held-out examples
NaN:       no update; back to the last checkpoint with half the rates, a few times at most
stop:      a checkpoint first; a run continued from it equals the undisturbed one, on a CPU bit for bit
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.bundle import TrainingFacts
from bitsmith_core.spec import LoraTraining, Training
from torch import Tensor, nn

from bitsmith_engine.copies import Copies
from bitsmith_engine.data.batching import epoch_order
from bitsmith_engine.data.examples import Example, check_vocabulary
from bitsmith_engine.errors import BadData, Diverged, Stopped
from bitsmith_engine.models.forward import recomputed_layers, separate_documents
from bitsmith_engine.nn.assembly import REST_DTYPE
from bitsmith_engine.nn.swap import attach_sink
from bitsmith_engine.optim.diodemix import DiodeMix, StepReport
from bitsmith_engine.optim.floats import Floats
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Ranks, Runtime, Single, peak_memory_bytes
from bitsmith_engine.train.checkpoint import (
    Checkpoint,
    Checkpoints,
    History,
    OnCheckpoint,
    identity,
    random_state,
    set_random_state,
)
from bitsmith_engine.train.early_stopping import EarlyStop
from bitsmith_engine.train.step import Layout, Step, held_out_loss, losses_at_ends, run_step
from bitsmith_engine.train.weights import Weights, with_prefix, without_prefix

_FLIPS_EXPECTED_AFTER = 20  # steps; a shorter run may end before any residual has reached its boundary


def plan_steps(examples: Sequence[Example], training: Training | LoraTraining, *, seed: int) -> list[list[int]]:
    """Which examples each optimizer step sees."""
    # Packed rows have no padding, so that batches need not be of similar lengths: they are plain draws.
    is_packed = isinstance(training, Training) and training.packing
    lengths = [0 if is_packed else len(example.ids) for example in examples]
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
    *,
    held_out: Sequence[Example] = (),
    checkpoints: Path | None = None,
    floats: Sequence[nn.Parameter] = (),
    float_learning_rate: float = 0.0,
    ranks: Ranks | None = None,
    copies: Copies | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> TrainingFacts:
    """Run the plan; the model's quantized weights and `floats` change in place.

    Args:
        held_out: what early stopping looks at.
        checkpoints: a folder of this run's own, to continue from; without one it starts anew and ends at the first
            loss that is not finite.
        floats: float parameters of the model that are trained too.
        copies: for ranks that do not see the folder that rank 0 sees.
        on_checkpoint: hears of each one after a step: how many steps are done, its folder, what was measured then.

    Raises:
        BadData: the plan is empty.
        BadModel: an example holds a token that the model has no embedding for.
        Diverged: a loss was NaN or infinite, and halving the rates did not help.
        Stopped: between two steps, after a checkpoint.
    """
    if not plan:
        raise BadData("there is nothing to train on: the plan has no steps")
    check_vocabulary(examples, model.model.embed_tokens.num_embeddings)
    check_vocabulary(held_out, model.model.embed_tokens.num_embeddings)
    trained = Floats({str(index): parameter for index, parameter in enumerate(floats)}, through=REST_DTYPE)
    with ExitStack() as stack:
        stack.enter_context(_listening(model, optimizer, trained))
        if training.packing:
            stack.enter_context(separate_documents(model))
        if training.activation_checkpointing:
            stack.enter_context(recomputed_layers(model))
        run = _Run(
            model,
            optimizer,
            examples,
            plan,
            training,
            runtime,
            observer,
            held_out,
            checkpoints,
            trained,
            float_learning_rate,
            ranks or Single(),
            copies,
            on_checkpoint,
        )
        return run.run()


class _Run:
    def __init__(
        self,
        model: Any,
        optimizer: DiodeMix,
        examples: Sequence[Example],
        plan: Sequence[Sequence[int]],
        training: Training,
        runtime: Runtime,
        observer: Observer,
        held_out: Sequence[Example],
        folder: Path | None,
        floats: Floats,
        float_learning_rate: float,
        ranks: Ranks,
        copies: Copies | None,
        on_checkpoint: OnCheckpoint | None,
    ) -> None:
        self._on_checkpoint = on_checkpoint
        self._model, self._optimizer, self._floats = model, optimizer, floats
        self._rate_scale = optimizer.rate_scale
        self._float_learning_rate = float_learning_rate
        self._examples, self._plan, self._training = examples, plan, training
        self._runtime, self._observer, self._ranks = runtime, observer, ranks
        self._layout = Layout(training.packing, training.micro_batch_size or training.batch_size)
        self._weights = Weights(model, floats)
        self._early_stop = EarlyStop(training.early_stopping, held_out, self._weights, observer)
        self._history = History()
        self._checkpoints: Checkpoints | None = None
        if folder is not None:
            self._checkpoints = Checkpoints(folder, self._identity(held_out), ranks, runtime.device, copies=copies)

    def run(self) -> TrainingFacts:
        self._continue_or_begin()
        while self._history.done < len(self._plan) and not self._early_stop.is_over(self._history):
            self._one_step()
        self._early_stop.restore_best(self._history)
        _warn_if_nothing_flipped(self._history, self._training, self._observer)
        return _facts(self._history, self._optimizer, self._training, self._plan)

    def _one_step(self) -> None:
        began = time.perf_counter()
        number = self._history.done
        chosen = [self._examples[index] for index in self._plan[number]]
        step = run_step(self._model, self._optimizer, number, chosen, self._layout, self._runtime, self._ranks)
        if not math.isfinite(step.loss):
            self._roll_back(step.loss)
            return

        report = self._optimizer.finish()
        float_rate = self._optimizer.rate_factor(number) * self._float_learning_rate
        self._floats.step_(step=number + 1, rate=float_rate, ranks=self._ranks)
        metrics = self._review(number)
        self._history.steps.append(step._replace(total_flips=self._optimizer.total_flips))
        metrics |= self._look()
        metrics |= self._metrics(step, report, time.perf_counter() - began)

        stopped = self._report(metrics)
        if stopped or self._history.done % self._training.checkpoint_steps == 0:
            self._save(metrics)
        if stopped:
            raise stopped

    def _review(self, number: int) -> dict[str, float]:
        """Judge recent flips on the next batch, which nothing was learned from yet."""
        every = self._training.optimizer.trust_every
        if every is None or (number + 1) % every or number + 1 == len(self._plan):
            return {}
        coming = [self._examples[index] for index in self._plan[number + 1]]
        review = self._optimizer.review(lambda: self._loss_of(coming))
        return {"trust": review.trust, "flip_gain": review.gain, "flips_taken_back": review.taken_back}

    def _look(self) -> dict[str, float]:
        """At held-out examples, when it is time to."""
        if not self._early_stop.is_due(self._history, len(self._plan)):
            return {}
        loss = self._loss_of(self._early_stop.examples)
        self._early_stop.judge(loss, self._history)
        return {"held_out_loss": loss}

    def _loss_of(self, examples: Sequence[Example]) -> float:
        return held_out_loss(self._model, examples, self._layout, self._runtime, self._ranks)

    def _metrics(self, step: Step, report: StepReport, seconds: float) -> dict[str, float]:
        optimizer = self._optimizer
        return {
            "loss": step.loss,
            "lr": optimizer.rate_factor(self._history.done - 1) * self._training.optimizer.scale_learning_rate,
            "flips": optimizer.total_flips,
            "flip_rate": optimizer.total_flips / optimizer.total_codes,
            "flip_candidates": report.candidates,
            "saturation": report.saturated / optimizer.total_codes,
            "learned_tokens": step.learned,
            "tokens_per_s": step.read / seconds,
            "seconds": seconds,
            "peak_memory_bytes": peak_memory_bytes(self._runtime),
        }

    def _report(self, metrics: Mapping[str, float]) -> Stopped | None:
        """All ranks stop at the same step, whichever of them was asked to."""
        stopped = None
        try:
            self._observer.progress(self._history.done, len(self._plan), metrics)
        except Stopped as error:
            stopped = error
        votes = torch.tensor([int(stopped is not None)])
        self._ranks.sum_(votes)
        if votes.item() and stopped is None:
            stopped = Stopped("another process of this run was asked to stop; the run can be continued")
        return stopped

    def _continue_or_begin(self) -> None:
        found = None if self._checkpoints is None else self._checkpoints.load()
        if found is not None:
            self._restore(found)
            self._observer.note("info", f"training continues after step {self._history.done} of {len(self._plan)}")
            return
        self._look()
        if self._training.max_rollbacks:
            self._save({})  # something to roll back to

    def _roll_back(self, loss: float) -> None:
        rollbacks = self._history.rollbacks + 1
        advice = "lower scale_learning_rate and code_learning_rate, or lengthen the warm-up"
        found = None if self._checkpoints is None else self._checkpoints.load()
        if found is None or rollbacks > self._training.max_rollbacks:
            tried = f" after {rollbacks - 1} returns to a checkpoint at half the rates" if rollbacks > 1 else ""
            raise Diverged(f"the loss became {loss} at step {self._history.done + 1}{tried}; {advice}")
        failed = self._history.done + 1
        self._restore(found)
        self._slow_down(rollbacks)
        self._observer.note(
            "warn",
            f"the loss became {loss} at step {failed}; training goes on from step {self._history.done} with rates "
            f"times {self._optimizer.rate_scale}. If it happens again, {advice}",
        )

    def _slow_down(self, rollbacks: int) -> None:
        self._history.rollbacks = rollbacks
        self._optimizer.rate_scale = self._rate_scale * 0.5**rollbacks

    def _save(self, metrics: Mapping[str, float]) -> None:
        """Unless something in the state is not finite already: the next loss will show it, and needs an older one."""
        if self._checkpoints is None:
            return
        shared = self._weights.copy() | with_prefix("best.", self._early_stop.best)
        own = with_prefix("optimizer.", self._optimizer.state_dict()) | with_prefix(
            "floats.", self._floats.state_dict()
        )
        own |= random_state(self._runtime)
        broken = torch.tensor([int(not (_is_finite(shared) and _is_finite(own)))])
        self._ranks.sum_(broken)
        if not broken.item():
            folder = self._checkpoints.save(Checkpoint(self._history, shared, own))
            if self._on_checkpoint is not None and self._history.done and self._ranks.rank == 0:
                self._on_checkpoint(self._history.done, folder, metrics)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._history = checkpoint.history.model_copy(deep=True)
        self._slow_down(self._history.rollbacks)
        self._weights.restore(checkpoint.weights)
        self._early_stop.best = without_prefix("best.", checkpoint.weights)
        self._optimizer.load_state_dict(without_prefix("optimizer.", checkpoint.own))
        self._floats.load_state_dict(without_prefix("floats.", checkpoint.own))
        set_random_state(checkpoint.own, self._runtime)

    def _identity(self, held_out: Sequence[Example]) -> str:
        """What must be equal for a checkpoint to be continued from.

        Not what a later attempt may do otherwise because an earlier one failed: smaller micro-batches, fewer flips, a
        smaller scale of all rates.
        """
        settings = self._training.model_dump(
            mode="json", exclude={"micro_batch_size": True, "optimizer": {"flip_budget"}}
        )
        layers = [(parameter.name, parameter.shape, str(parameter.scheme)) for parameter in self._weights.quantized]
        return identity(settings, self._plan, layers, self._examples, held_out)


@contextmanager
def _listening(model: Any, optimizer: DiodeMix, floats: Floats) -> Iterator[None]:
    attach_sink(model, optimizer)
    try:
        yield
    finally:
        attach_sink(model, None)
        floats.freeze_()


def _is_finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values() if tensor.is_floating_point())


def _warn_if_nothing_flipped(history: History, training: Training, observer: Observer) -> None:
    settings = training.optimizer
    steps = history.steps
    if settings.mode != "scales_only" and settings.flip_budget > 0 and steps and not steps[-1].total_flips:
        is_short = len(steps) < _FLIPS_EXPECTED_AFTER
        hint = "the run was short" if is_short else "raise code_learning_rate, or use mode scales_only"
        observer.note("warn", f"no code moved in {len(steps)} steps, only scales were trained: {hint}")


def _facts(history: History, optimizer: DiodeMix, training: Training, plan: Sequence[Sequence[int]]) -> TrainingFacts:
    steps = history.steps
    first_loss, last_loss = losses_at_ends(steps)
    kept = steps if history.best_loss is None else steps[: history.best_step]
    flips = kept[-1].total_flips if kept else 0
    return TrainingFacts(
        optimizer="diodemix",
        mode=training.optimizer.mode,
        steps=len(steps),
        examples=sum(len(indices) for indices in plan[: len(steps)]),
        tokens=sum(step.learned for step in steps),
        first_loss=first_loss,
        last_loss=last_loss,
        flips=flips,
        flip_rate=flips / optimizer.total_codes,
        flip_budget=0.0 if training.optimizer.mode == "scales_only" else training.optimizer.flip_budget,
    )
