"""Fit one quantized decoder layer so that on the student's own inputs it gives the float layer's output.

    e_t  = |layer(h_student)_t - y_t|^2,   y the teacher's output
    loss = 1/2 mean_t(e_t / |y_t|^2)  +  1/2 sum_t e_t / sum_t |y_t|^2

The student's input comes from the layers fitted before it, so a layer also makes good what those left over; the
target is what the float model computes on its own input. A few tokens (the first of a window above all) carry hundreds
of times the energy of others: by energy alone they may be all that is fitted; by relative error alone they are given
up, though all later tokens attend to them.

Measured on SmolLM2-135M, on other text (layers 2 and 3 at two bits, 24 windows of 256 tokens, 12 steps, one seed): the
divergence of the final distribution is 0.16 by relative error alone, 0.20 by both, 0.22 by energy alone; but alone,
relative error lets the error by energy of layer 2 grow, from 0.07 to 0.11 (from 0.18 to 0.35 when layers 0 and 1 are
quantized too). Levels at 3e-2 a step give less relative error (0.046 for 0.052) and more divergence (0.25): the error
of a layer is no measure of success. Errors reported here are of windows that were fitted.

Codes, scales and float parameters (norms, biases: 16-bit in the checkpoint anyway) move together by Adam under one
cosine. Memory: about 23 bytes a weight of one decoder layer (level, its gradient, two moments, the rounded weight, the
code, the float weight in 16 bit) and the activations of one step.

Shape letters: B windows, T tokens per window, H hidden features.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bitsmith_engine.calibrate.latent import LatentLinear, LatentWeight
from bitsmith_engine.calibrate.steps import step_windows
from bitsmith_engine.calibrate.teacher import Stream
from bitsmith_engine.errors import Diverged
from bitsmith_engine.models.blocks import Blocks, DecoderLayer
from bitsmith_engine.nn.assembly import REST_DTYPE
from bitsmith_engine.optim.floats import Floats
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.quant.parameter import QuantParameter, by_layer
from bitsmith_engine.quant.storage import Parameters, Rest

LEVEL_RATE = 1e-2  # levels a step
SCALE_RATE = 5e-3  # relative
FLOAT_RATE = 1e-3  # of norms and biases, whose values are of the order of one
_BETAS = (0.9, 0.95)  # a layer sees a hundred steps; 0.999 would hardly leave the first of them
_WARMUP_FRACTION = 0.05

_STEPS = 120  # of a layer; more text makes larger steps, not more: Adam's part of a step is the same for any size
_LEAST_TOKENS, _MOST_TOKENS = 512, 2048  # of a step: few samples go further in many small steps than in few large ones
_PROBE_TOKENS = 4096  # that the error before and after is measured on


class BlockReport(NamedTuple):
    before: float  # relative squared error of the layer's output, as in the loss
    after: float
    moved: float  # fraction of the layer's codes


class StudentLayer:
    """A decoder layer whose named linears are latent weights and whose other parameters are trainable floats."""

    def __init__(self, layer: DecoderLayer, parameters: Parameters, rest: Rest, *, prefix: str) -> None:
        """Args: layer: with the base's float weights, which are replaced; prefix: its path, with a full stop."""
        self.layer = layer
        self._prefix = prefix
        # A start that folded scales into the floats rounded other weights than the base's.
        self._is_folded = any(name.startswith(prefix) for name in rest)
        self.weights: list[LatentWeight] = []
        for name, blocks in by_layer(p for p in parameters.values() if p.layer_name.startswith(prefix)).items():
            self._replace(name.removeprefix(prefix), blocks)
        floats = {name: p for name, p in layer.named_parameters() if not name.endswith(("level_NK", "log_scale_NG"))}
        for name, parameter in floats.items():
            if prefix + name in rest:
                parameter.data.copy_(rest[prefix + name])
        self.floats = Floats(floats, through=REST_DTYPE)

    def settle_(self) -> Rest:
        """Write codes and scales into the parameters; returns the floats that changed, by their full names."""
        for weight in self.weights:
            weight.settle_()
        return {self._prefix + name: tensor for name, tensor in self.floats.changed().items()}

    def reset_(self) -> None:
        """Back to how the layer came."""
        for weight in self.weights:
            weight.reset_()
        self.floats.reset_()

    def _replace(self, name: str, blocks: tuple[QuantParameter, ...]) -> None:
        linear = self.layer.get_submodule(name)
        assert isinstance(linear, nn.Linear), f"{name} is a {type(linear).__name__}"
        w_NK = None if self._is_folded else linear.weight.detach()
        latent = [LatentWeight(block, w_NK) for block in blocks]
        self.weights += latent
        path, _, leaf = name.rpartition(".")
        setattr(self.layer.get_submodule(path), leaf, LatentLinear(latent, linear.bias))


def fit_block(
    blocks: Blocks,
    student: StudentLayer,
    inputs: Stream,
    targets: Stream,
    *,
    epochs: int,
    seed: int,
) -> BlockReport:
    """Train the layer; it stays as it came if that does not lower its error.

    Args:
        student: in the place of the float layer of `blocks`.
        inputs: the student's hidden states before this layer; targets: the teacher's after it, of these windows first.

    Raises:
        Diverged: an error is NaN or infinite.
    """
    before = _probe(blocks, student.layer, inputs, targets)
    if epochs == 0:
        return BlockReport(before, before, 0.0)
    codes = [weight.parameter.codes_NK.clone() for weight in student.weights]
    optimizer = torch.optim.Adam(
        [
            {"params": [weight.level_NK for weight in student.weights], "lr": LEVEL_RATE},
            {"params": [weight.log_scale_NG for weight in student.weights], "lr": SCALE_RATE},
        ],
        betas=_BETAS,
        eps=1e-12,  # gradients of a mean over tokens and features are far below Adam's usual 1e-8
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    B, T, _ = inputs.shape
    plan = layer_steps(B, T, epochs=epochs, seed=seed)
    schedule = Schedule(steps=len(plan), warmup_fraction=_WARMUP_FRACTION)
    for step, windows in enumerate(plan):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule.factor(step)
        relative_error(blocks.run(student.layer, inputs.read(windows)), targets.read(windows)).backward()  # type: ignore[no-untyped-call]  # torch types it not
        optimizer.step()
        optimizer.zero_grad()
        student.floats.step_(step=step + 1, rate=FLOAT_RATE * schedule.factor(step))
        for weight in student.weights:
            weight.keep_on_grid_()

    after = _probe(blocks, student.layer, inputs, targets)
    if not math.isfinite(after):
        raise Diverged(f"a decoder layer's error became {after} while it was fitted; its inputs overflow")
    if after >= before:
        student.reset_()
        return BlockReport(before, before, 0.0)
    moved = sum(int((w.level_NK.round() != old).sum()) for w, old in zip(student.weights, codes, strict=True))
    return BlockReport(before, after, moved / max(1, sum(old.numel() for old in codes)))


def layer_steps(B: int, T: int, *, epochs: int, seed: int) -> list[Tensor]:
    """The windows of each step."""
    step_tokens = min(max(B * T * epochs // _STEPS, _LEAST_TOKENS), _MOST_TOKENS)
    return step_windows(B, T, step_tokens=step_tokens, epochs=epochs, seed=seed)


def relative_error(output_BTH: Tensor, target_BTH: Tensor) -> Tensor:
    """As in the loss: float32, one number."""
    target_BTH = target_BTH.float()
    squared_BT = (output_BTH.float() - target_BTH).square().sum(-1)
    energy_BT = target_BTH.square().sum(-1).clamp(min=torch.finfo(torch.float32).tiny)
    return ((squared_BT / energy_BT).mean() + squared_BT.sum() / energy_BT.sum()) / 2


@torch.no_grad()
def _probe(blocks: Blocks, layer: DecoderLayer, inputs: Stream, targets: Stream) -> float:
    """Over the first windows."""
    total, seen = 0.0, 0
    for windows in inputs.passes():
        output_BTH = blocks.run(layer, inputs.read(windows))
        total += relative_error(output_BTH, targets.read(windows)).item() * len(output_BTH)
        seen += len(output_BTH)
        if seen * inputs.shape[1] >= _PROBE_TOKENS:
            break
    return total / seen
