"""DiodeMix as a torch optimizer, for transformers.Trainer, trl.SFTTrainer and any loop that calls backward and step.

    optimizer = HFDiodeMix(parameters, settings, schedule, anchors=..., seed=0, float_weight=...)
    attach_sink(model, optimizer)
    Trainer(model, args, optimizers=(optimizer, lr_scheduler(optimizer)), callbacks=[SaveCodes(parameters)])

Gradients do not pass through torch's: the layers hand them over inside backward, any number of times, and step() acts
on their sum. Two things follow. Clipping (max_grad_norm) sees no gradient and does nothing; set it to 0, since DiodeMix
divides by the gradient's own size anyway. And zero_grad() cannot take back what a backward pass has brought.

The one parameter group's lr is the scales' learning rate. Whatever schedules it schedules the codes as well: lr over
its initial value is the factor on every rate. The flip budget is spent by `schedule`, which knows the run's length.

The optimizer's state holds the codes and scales themselves, so that a Trainer's checkpoint continues where it stopped
although the model's own file knows no codes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from bitsmith_core.spec import DiodeMix as Settings
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from bitsmith_engine.errors import BadModel
from bitsmith_engine.optim.diodemix import DiodeMix, Plan, ReadWeight, StepReport
from bitsmith_engine.quant.parameter import TokenSample
from bitsmith_engine.quant.storage import Parameters, save_parameters

_STATE = "diodemix"
_STEP = "step"
_CODES, _SCALES = "parameter.codes", "parameter.scales"


class HFDiodeMix(torch.optim.Optimizer):
    """A GradientSink that steps like a torch optimizer.

    Args:
        settings: trust_every is not heeded, for nothing here brings batches to review flips on.
        schedule: how the flip budget is spent; lr_scheduler takes the learning rate from it too.
        anchors: of all quantized layers, `[layer.anchor for layer in quant_linears(model)]`. A torch optimizer must
            have parameters and a Trainer wants to see them; these are never changed.
    """

    def __init__(
        self,
        parameters: Parameters,
        settings: Settings,
        schedule: Plan,
        *,
        anchors: Iterable[nn.Parameter],
        seed: int,
        float_weight: ReadWeight | None = None,
    ) -> None:
        super().__init__(list(anchors), {"lr": settings.scale_learning_rate})
        self.schedule = schedule
        self._parameters = parameters
        self._scale_learning_rate = settings.scale_learning_rate
        self._step = 0
        self._is_pending = False  # has a backward pass brought gradients since the last step?
        # Without a review the flips noted for it would only pile up.
        settings = settings.model_copy(update={"trust_every": None})
        self._diodemix = DiodeMix(parameters, settings, _Followed(self), seed=seed, float_weight=float_weight)
        self.report: StepReport | None = None
        """Of the last step."""

    @property
    def rate_factor(self) -> float:
        """What the learning-rate scheduler makes of the peak rates now."""
        factor: float = self.param_groups[0]["lr"] / self._scale_learning_rate
        return factor

    def choose_tokens(self, importance: Callable[[], Tensor]) -> TokenSample | None:
        return self._diodemix.choose_tokens(importance)

    def receive(self, name: str, grad_NK: Tensor) -> None:
        # Not in __init__ or step: the scheduler sets this step's rate after the step before.
        if not self._is_pending:
            self._diodemix.start(self._step)
            self._is_pending = True
        self._diodemix.receive(name, grad_NK)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        """Move scales and codes by everything received since the last step; without a backward pass nothing moves."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._is_pending:
            self.report = self._diodemix.finish()
            self._step += 1
            self._is_pending = False
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Raises RuntimeError between a backward pass and its step."""
        if self._is_pending:
            raise RuntimeError(
                "zero_grad() would drop a gradient that DiodeMix has already taken up inside backward; "
                "call step() after the backward passes and zero_grad() after that, or not at all"
            )
        super().zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = super().state_dict()
        state: dict[str, Any] = {_STEP: self._step, **self._diodemix.state_dict()}
        for name, parameter in self._parameters.items():
            state |= {f"{_CODES}:{name}": parameter.codes_NK, f"{_SCALES}:{name}": parameter.scale_NG}
        return {**found, _STATE: state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state_dict; the parameters get its codes and scales too.

        Raises:
            BadModel: it is of another optimizer or of another model.
        """
        state = state_dict.get(_STATE)
        if state is None or any(
            state.get(f"{_CODES}:{name}", torch.empty(0)).shape != parameter.shape
            for name, parameter in self._parameters.items()
        ):
            raise BadModel("this is not the state of a DiodeMix on this model; resume from a checkpoint of this run")
        super().load_state_dict({name: value for name, value in state_dict.items() if name != _STATE})
        for name, parameter in self._parameters.items():
            parameter.codes_NK.copy_(state[f"{_CODES}:{name}"])
            parameter.scale_NG.copy_(state[f"{_SCALES}:{name}"])
        self._step, self._is_pending = int(state[_STEP]), False
        # A Trainer moves every tensor to its device; the random generator's state belongs on the CPU.
        own = {key: value for key, value in state.items() if key != _STEP and not key.startswith((_CODES, _SCALES))}
        self._diodemix.load_state_dict(own | {"random": own["random"].cpu()})


class _Followed:
    """A Plan whose factor is what a learning-rate scheduler says."""

    def __init__(self, optimizer: HFDiodeMix) -> None:
        self._optimizer = optimizer

    def factor(self, step: int) -> float:
        return self._optimizer.rate_factor

    def share_until(self, step: int) -> float:
        return self._optimizer.schedule.share_until(step)


def lr_scheduler(optimizer: HFDiodeMix) -> LambdaLR:
    """The optimizer's own schedule as torch's scheduler."""
    return LambdaLR(optimizer, optimizer.schedule.factor)


class SaveCodes(TrainerCallback):
    """Puts codes.safetensors and quantization.json beside every checkpoint, and into output_dir at the end."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            save_parameters(self._parameters, Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_parameters(self._parameters, folder)
