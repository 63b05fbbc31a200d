"""The few parameters of a quantized model that train in floating point (norm weights), by torch's AdamW.

The steps add up in float32 masters: in bfloat16 a norm weight near 1 has no neighbour nearer than 0.004.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bitsmith_engine.runtime import Ranks

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what torch's AdamW keeps of each parameter


class Floats:
    """Trains these parameters in place; there may be none."""

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> None:
        self._parameters = list(parameters)
        self._rate = learning_rate
        self._masters = [parameter.detach().to(torch.float32, copy=True) for parameter in parameters]
        # AdamW refuses to train nothing, so it gets an empty stand-in.
        self._adamw = torch.optim.AdamW(self._masters or [torch.zeros(0)], lr=learning_rate, weight_decay=0.0)

    def step(self, factor: float, ranks: Ranks) -> None:
        """Use up the gradients of a whole batch; factor is that of the learning rate."""
        if not self._parameters:
            return
        gradients = [_taken(parameter) for parameter in self._parameters]
        flat = torch.cat([gradient.float().view(-1) for gradient in gradients])
        ranks.sum_(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for master, part in zip(self._masters, parts, strict=True):
            master.grad = part.view_as(master)
        self._adamw.param_groups[0]["lr"] = factor * self._rate
        self._adamw.step()
        self._publish()

    def state_dict(self) -> dict[str, Tensor]:
        state = self.weights()
        for index, master in enumerate(self._masters):
            state |= {f"{index}.{name}": moment for name, moment in self._adamw.state[master].items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.load_weights(state)
        for index, master in enumerate(self._masters):
            moments = {name: state[f"{index}.{name}"] for name in _MOMENTS if f"{index}.{name}" in state}
            # The step count stays on the CPU, where AdamW wants it.
            self._adamw.state[master] = {
                name: moment.clone() if name == "step" else moment.to(master.device, copy=True)
                for name, moment in moments.items()
            }

    def weights(self) -> dict[str, Tensor]:
        return {f"{index}.weight": master.clone() for index, master in enumerate(self._masters)}

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        for index, master in enumerate(self._masters):
            master.copy_(state[f"{index}.weight"])
        self._publish()

    def _publish(self) -> None:
        with torch.no_grad():
            for parameter, master in zip(self._parameters, self._masters, strict=True):
                parameter.copy_(master)
                parameter.grad = None


def _taken(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "a parameter to be trained was not used by the model"
    return parameter.grad
