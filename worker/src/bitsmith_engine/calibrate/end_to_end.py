"""Train the whole quantized model towards the distributions that the float model gave, at every place of every window.

    loss = mean over places of  sum_i p_i (log p_i - log q_i)  +  p_rest (log p_rest - log q_rest)

with the teacher's k kept tokens i and the rest of its vocabulary as one more (calibrate.teacher). Scales move by
DiodeMix, norms and biases by AdamW; codes were the block-wise fit's. With codes too (residual, 2e-4, 2 % of flips) a
run of six steps went from a divergence of 0.11 to 3.9 at its third step: all of the budget was spent at once.

Measured on SmolLM2-135M (gate and up at two bits, the rest at four; 48 windows of 256 tokens, one epoch of 24 steps,
codes moving as well): the perplexity of other text falls from 74.4 to 68.3, although the divergence on the windows
themselves rises from 0.18 to 0.33. The block-wise fit knows few windows by heart; only what holds for the whole model
stays. So the divergence reported here is no measure of success; other text is.

Memory: the quantized model, DiodeMix' state (16 bytes a scale), one hidden state a decoder layer for each token of
a step (layers are recomputed in the backward pass), and the logits of some places at a time.

Shape letters: B windows, T tokens per window, H hidden features, A places, V vocabulary, k kept tokens.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitsmith_core.spec import DiodeMix as Settings
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bitsmith_engine.calibrate.teacher import Distribution
from bitsmith_engine.errors import Diverged, Stopped
from bitsmith_engine.models.forward import recomputed_layers, summed_over_places
from bitsmith_engine.nn.assembly import REST_DTYPE
from bitsmith_engine.nn.swap import attach_sink
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.optim.floats import Floats
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.ports import Observer
from bitsmith_engine.quant.storage import Parameters, Rest
from bitsmith_engine.runtime import Runtime

# 64 steps from a block-wise fit of divergence 0.153 end at 0.146 with 1.5e-3, at 0.156 with 5e-3 (held-out windows).
_SCALES = Settings(mode="scales_only", scale_learning_rate=2e-3)
FLOAT_RATE = 1e-3  # of norms and biases, whose values are of the order of one
_WARMUP_FRACTION = 0.1

STEP_TOKENS = 512  # at least one window
_CHECKPOINT_STEPS = 25
_LEAST_REST = 1e-6  # float32 knows no smaller difference from 1


class EndToEnd:
    """One training of one model. Checkpoints are whole files; the newest is where run() goes on."""

    def __init__(
        self,
        model: Any,
        parameters: Parameters,
        *,
        plan: Sequence[Tensor],
        seed: int,
        folder: Path,
        on_checkpoint: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        """
        Args:
            model: of load_quantized, on these parameters; both are changed.
            plan: indices of the windows of each step.
            folder: for checkpoints.
            on_checkpoint: hears of each: the steps done, what was measured then.
        """
        self._model = model
        self._parameters = parameters
        self._plan = plan
        self._folder, self._on_checkpoint = folder, on_checkpoint
        self._schedule = Schedule(steps=len(plan), warmup_fraction=_WARMUP_FRACTION)
        self._optimizer = DiodeMix(parameters, _SCALES, self._schedule, seed=seed)
        norms_and_biases = {name: p for name, p in model.named_parameters() if p.ndim == 1}
        self._floats = Floats(norms_and_biases, through=REST_DTYPE)

    def run(
        self,
        teacher: Distribution,
        tokens_BT: Tensor,
        runtime: Runtime,
        observer: Observer,
        *,
        done: int,
        total: int,
    ) -> Rest:
        """Train; returns the floats that changed.

        Args:
            done, total: where the run stands in the observer's count; each step is one more.

        Raises:
            Diverged: the divergence became NaN or infinite.
            Stopped: by the observer, after a step, which is kept.
        """
        first = self._take_checkpoint()
        attach_sink(self._model, self._optimizer)
        with recomputed_layers(self._model):
            for step in range(first, len(self._plan)):
                windows = self._plan[step]
                self._optimizer.start(step)
                tokens = tokens_BT[windows].to(runtime.device)
                loss = _backward(self._model, tokens, teacher.at(windows, runtime.device))
                if not math.isfinite(loss):
                    raise Diverged(f"the divergence from the float model became {loss} at step {step + 1}")
                self._optimizer.finish()
                self._floats.step_(step=step + 1, rate=FLOAT_RATE * self._schedule.factor(step))
                metrics = {"divergence": loss}
                if (step + 1) % _CHECKPOINT_STEPS == 0:
                    self._keep_checkpoint(step + 1, metrics)
                try:
                    observer.progress(done + step + 1, total, metrics)
                except Stopped:
                    self._keep_checkpoint(step + 1, metrics)
                    raise
        attach_sink(self._model, None)
        return self._floats.changed()

    def _keep_checkpoint(self, step: int, metrics: Mapping[str, float]) -> None:
        older = self._checkpoints()
        if step in older:
            return
        parts = {
            "scales": {name: parameter.scale_NG for name, parameter in self._parameters.items()},
            "optimizer": self._optimizer.state_dict(),
            "floats": self._floats.state_dict(),
        }
        tensors = {f"{part}/{name}": tensor for part, own in parts.items() for name, tensor in own.items()}
        self._folder.mkdir(exist_ok=True)
        draft = self._folder / "draft"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft)
        draft.rename(self._folder / f"{step}.safetensors")
        for path in older.values():
            path.unlink()
        if self._on_checkpoint is not None:
            self._on_checkpoint(step, metrics)

    def _take_checkpoint(self) -> int:
        """Continue from the newest; returns how many steps are done."""
        found = self._checkpoints()
        if not found:
            return 0
        tensors = load_file(found[max(found)])
        for name, scale_NG in _below("scales/", tensors).items():
            self._parameters[name].scale_NG.copy_(scale_NG)
        self._optimizer.load_state_dict(_below("optimizer/", tensors))
        self._floats.load_state_dict(_below("floats/", tensors))
        return max(found)

    def _checkpoints(self) -> dict[int, Path]:
        """By step."""
        return {int(path.stem): path for path in self._folder.glob("*.safetensors")}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def divergences(logits_AV: Tensor, teacher: Distribution) -> Tensor:
    """float32 (A,) in nats; zero where the student gives the teacher's probabilities to its tokens and to the rest."""
    log_q_Ak = logits_AV.float().log_softmax(-1).gather(1, teacher.token.long())
    # log(1 - sum q): a student that gives the kept tokens everything is held at a finite distance.
    log_rest_A = (-log_q_Ak.exp().sum(-1)).clamp(min=_LEAST_REST - 1).log1p()
    kept_A = (teacher.log_p.exp() * (teacher.log_p - log_q_Ak)).sum(-1)
    return kept_A + teacher.log_rest.exp() * (teacher.log_rest - log_rest_A)


def summed_divergence(
    head: nn.Linear, hidden_AH: Tensor, teacher: Distribution, *, places_at_once: int | None = None
) -> Tensor:
    """The sum over all places, as summed_over_places computes it."""

    def loss(logits_AV: Tensor, here: slice) -> Tensor:
        return divergences(logits_AV, Distribution(*(tensor[here] for tensor in teacher))).sum()

    return summed_over_places(head, hidden_AH, loss, places_at_once=places_at_once)


def _backward(model: Any, tokens_BT: Tensor, teacher: Distribution) -> float:
    hidden_BTH = model.model(input_ids=tokens_BT, use_cache=False).last_hidden_state
    flat = Distribution(*(tensor.flatten(0, 1) for tensor in teacher))
    total = summed_divergence(model.lm_head, hidden_BTH.flatten(0, 1), flat)
    mean = total / tokens_BT.numel()
    mean.backward()  # type: ignore[no-untyped-call]  # torch types it not
    return mean.item()
