"""Train the whole quantized model towards the distributions that the float model gave, at every place of every window.

    loss = mean over places of  sum_i p_i (log p_i - log q_i)  +  p_rest (log p_rest - log q_rest)

with the teacher's k kept tokens i and the rest of its vocabulary as one more (calibrate.teacher). Scales move by
DiodeMix, norms and biases by AdamW; codes were the block-wise fit's. With codes too (residual, 2e-4, 2 % of flips) a
run of six steps went from a divergence of 0.11 to 3.9 at its third step: all of the budget was spent at once.

Measured on SmolLM2-135M (gate and up at two bits, the rest at four; 48 windows of 256 tokens, one epoch of 24 steps,
codes moving as well): the perplexity of other text falls from 74.4 to 68.3, although the divergence on the windows
themselves rises from 0.18 to 0.33. The block-wise fit knows few windows by heart; only what holds for the whole model
stays. So the divergence reported here is no measure of success; other text is.

Memory: the quantized model, DiodeMix' state (about 1 byte a weight), one hidden state a decoder layer for each token of
a step (layers are recomputed in the backward pass), and the logits of some places at a time.

Shape letters: B windows, T tokens per window, H hidden features, A places, V vocabulary, k kept tokens.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.spec import DiodeMix as CodeSettings
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bitsmith_engine.calibrate.latent import Floats
from bitsmith_engine.calibrate.teacher import Distribution
from bitsmith_engine.errors import Diverged, Stopped
from bitsmith_engine.models.forward import recomputed_layers
from bitsmith_engine.nn.swap import attach_sink
from bitsmith_engine.optim.diodemix import DiodeMix, ReadWeight
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.ports import Observer
from bitsmith_engine.quant.storage import Parameters, Rest, load_parameters, save_parameters
from bitsmith_engine.runtime import Runtime

CODES = CodeSettings(mode="scales_only", scale_learning_rate=5e-3)
FLOAT_RATE = 1e-3  # of norms and biases, whose values are of the order of one
_WARMUP_FRACTION = 0.1

STEP_TOKENS = 512  # at least one window
_HEAD_LOGITS = 1 << 25  # at once: 128 MB of float32
_CHECKPOINT_STEPS = 25
_STATE_FILE = "state.safetensors"
_LEAST_REST = 1e-6  # float32 knows no smaller difference from 1


class EndToEnd:
    """One training of one model. Checkpoints are whole folders; the newest is where run() goes on."""

    def __init__(
        self,
        model: Any,
        parameters: Parameters,
        *,
        plan: Sequence[Tensor],
        latent: ReadWeight,
        seed: int,
        folder: Path,
        settings: CodeSettings = CODES,
    ) -> None:
        """
        Args:
            model: of load_quantized, on these parameters; both are changed.
            plan: indices of the windows of each step.
            latent: the weight (N, K) that a parameter was rounded from.
            folder: for checkpoints.
        """
        self._model = model
        self._parameters = parameters
        self._plan = plan
        self._folder = folder
        self._schedule = Schedule(steps=len(plan), warmup_fraction=_WARMUP_FRACTION)
        self._optimizer = DiodeMix(parameters, settings, self._schedule, seed=seed, float_weight=latent)
        self._floats = Floats({name: p for name, p in model.named_parameters() if p.ndim == 1})  # norms and biases

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
                report = self._optimizer.finish()
                self._floats.step_(step=step + 1, rate=FLOAT_RATE * self._schedule.factor(step))
                if (step + 1) % _CHECKPOINT_STEPS == 0:
                    self._keep_checkpoint(step + 1)
                try:
                    observer.progress(done + step + 1, total, {"divergence": loss, "flips": report.total_flips})
                except Stopped:
                    self._keep_checkpoint(step + 1)
                    raise
        attach_sink(self._model, None)
        return self._floats.changed()

    def _keep_checkpoint(self, step: int) -> None:
        draft = self._folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_parameters(self._parameters, draft)
        tensors = {f"codes/{name}": tensor for name, tensor in self._optimizer.state_dict().items()}
        tensors |= {f"floats/{name}": tensor for name, tensor in self._floats.state_dict().items()}
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft / _STATE_FILE)
        if not (self._folder / str(step)).exists():
            draft.rename(self._folder / str(step))
        for older in self._checkpoints():
            if older < step:
                shutil.rmtree(self._folder / str(older))

    def _take_checkpoint(self) -> int:
        """Continue from the newest; returns how many steps are done."""
        found = self._checkpoints()
        if not found:
            return 0
        folder = self._folder / str(max(found))
        for name, saved in load_parameters(folder, torch.device("cpu")).items():
            self._parameters[name].codes_NK.copy_(saved.codes_NK)
            self._parameters[name].scale_NG.copy_(saved.scale_NG)
        tensors = load_file(folder / _STATE_FILE)
        self._optimizer.load_state_dict(_below("codes/", tensors))
        self._floats.load_state_dict(_below("floats/", tensors))
        return max(found)

    def _checkpoints(self) -> list[int]:
        return [int(path.name) for path in self._folder.glob("[0-9]*")]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def divergences(logits_AV: Tensor, teacher: Distribution) -> Tensor:
    """float32 (A,) in nats; zero where the student gives the teacher's probabilities to its tokens and to the rest."""
    log_q_Ak = logits_AV.float().log_softmax(-1).gather(1, teacher.token.long())
    # log(1 - sum q): a student that gives the kept tokens everything is held at a finite distance.
    log_rest_A = (-log_q_Ak.exp().sum(-1)).clamp(min=_LEAST_REST - 1).log1p()
    kept_A = (teacher.log_p.exp() * (teacher.log_p - log_q_Ak)).sum(-1)
    return kept_A + teacher.log_rest.exp() * (teacher.log_rest - log_rest_A)


def summed_divergence(head: nn.Module, hidden_AH: Tensor, teacher: Distribution, *, places_at_once: int) -> Tensor:
    """The sum over all places, differentiable in hidden_AH, without ever holding all logits. The head is frozen."""
    loss: Tensor = _SummedDivergence.apply(  # type: ignore[no-untyped-call]  # torch types it not
        hidden_AH, head, teacher, places_at_once
    )
    return loss


class _SummedDivergence(torch.autograd.Function):
    """The gradient is computed with the value, chunk by chunk; backward only scales it."""

    @staticmethod
    def forward(ctx: Any, hidden_AH: Tensor, head: nn.Module, teacher: Distribution, step: int) -> Tensor:
        grad_AH = torch.empty_like(hidden_AH)
        total = torch.zeros((), dtype=torch.float64, device=hidden_AH.device)
        for start in range(0, len(hidden_AH), step):
            here = slice(start, start + step)
            with torch.enable_grad():
                chunk_AH = hidden_AH[here].detach().requires_grad_(True)
                loss = divergences(head(chunk_AH), Distribution(*(tensor[here] for tensor in teacher))).sum()
            (grad_AH[here],) = torch.autograd.grad(loss, chunk_AH)
            total += loss.detach()
        ctx.save_for_backward(grad_AH)
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_AH,) = ctx.saved_tensors
        return grad_AH * grads[0], None, None, None


def _backward(model: Any, tokens_BT: Tensor, teacher: Distribution) -> float:
    hidden_BTH = model.model(input_ids=tokens_BT, use_cache=False).last_hidden_state
    flat = Distribution(*(tensor.flatten(0, 1) for tensor in teacher))
    places_at_once = max(1, _HEAD_LOGITS // model.lm_head.out_features)
    total = summed_divergence(model.lm_head, hidden_BTH.flatten(0, 1), flat, places_at_once=places_at_once)
    mean = total / tokens_BT.numel()
    mean.backward()  # type: ignore[no-untyped-call]  # torch types it not
    return mean.item()
