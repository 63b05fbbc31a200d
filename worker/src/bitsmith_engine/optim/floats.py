"""The few parameters of a quantized model that train in floating point (norm weights, biases), by AdamW.

The steps add up in float32 masters: in bfloat16 a norm weight near 1 has no neighbour nearer than 0.004. The model
always computes with the masters as a file will hold them, so nothing is lost when they are saved.

Shape letters: F numbers of all parameters, one parameter after another.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from bitsmith_engine.optim import rules
from bitsmith_engine.runtime import Ranks, Single


class Floats:
    """Trains these parameters in place; there may be none. They want gradients until freeze_().

    Args:
        through: the type of the file.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, through: torch.dtype) -> None:
        self._parameters = dict(parameters)
        self._through = through
        self._start_F = _flat(parameter.detach() for parameter in parameters.values())
        self._master_F = self._start_F.clone()
        self._first_F = torch.zeros_like(self._start_F)
        self._second_F = torch.zeros_like(self._start_F)
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        self._publish()

    def freeze_(self) -> None:
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None

    @torch.no_grad()
    def step_(self, *, step: int, rate: float, ranks: Ranks | None = None) -> None:
        """Use up the gradients of a whole batch, which are summed over the ranks. step counts from 1."""
        if not self._parameters:
            return
        grad_F = _flat(_taken(name, parameter) for name, parameter in self._parameters.items())
        (ranks or Single()).sum_(grad_F)
        rules.adamw_(self._master_F, self._first_F, self._second_F, grad_F, step=step, rate=rate)
        self._publish()

    @torch.no_grad()
    def reset_(self) -> None:
        """Back to how the parameters came."""
        self._master_F.copy_(self._start_F)
        self._publish()

    def changed(self) -> dict[str, Tensor]:
        """Those that a file would hold differently from how they came."""
        start, now = (self._parts(values_F.to(self._through)) for values_F in (self._start_F, self._master_F))
        return {name: part.clone() for name, part in now.items() if not torch.equal(part, start[name])}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a run continues from; the tensors are shared."""
        return {"master": self._master_F, "first": self._first_F, "second": self._second_F}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        for name, values_F in self.state_dict().items():
            values_F.copy_(saved[name])
        self._publish()

    def weights(self) -> dict[str, Tensor]:
        """Of the state, what the parameters are made from; a copy."""
        return {"master": self._master_F.clone()}

    def load_weights(self, saved: Mapping[str, Tensor]) -> None:
        self._master_F.copy_(saved["master"])
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        for name, part in self._parts(self._master_F.to(self._through)).items():
            self._parameters[name].copy_(part)
            self._parameters[name].grad = None

    def _parts(self, values_F: Tensor) -> dict[str, Tensor]:
        sizes = [parameter.numel() for parameter in self._parameters.values()]
        parts = zip(self._parameters.items(), torch.split(values_F, sizes), strict=True)
        return {name: part.view_as(parameter) for (name, parameter), part in parts}


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """float32, the caller's own."""
    parts = [tensor.to(torch.float32).reshape(-1) for tensor in tensors]
    return torch.cat(parts) if parts else torch.zeros(0)


def _taken(name: str, parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, f"{name} is to be trained, and the model did not use it"
    return parameter.grad
