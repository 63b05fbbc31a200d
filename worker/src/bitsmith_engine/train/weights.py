"""The trained weights as a flat set of CPU tensors: for checkpoints, and for the best weights seen.

<parameter>.codes (packed), <parameter>.scales, floats.master; zero points stay
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bitsmith_engine.nn.swap import quant_linears
from bitsmith_engine.optim.floats import Floats
from bitsmith_engine.quant.pack import pack, unpack
from bitsmith_engine.quant.parameter import QuantParameter


class Weights:
    """What training changes in a model."""

    def __init__(self, model: Any, floats: Floats) -> None:
        self.quantized: Sequence[QuantParameter] = [block for layer in quant_linears(model) for block in layer.blocks]
        self._floats = floats

    def copy(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for parameter in self.quantized:
            tensors[f"{parameter.name}.codes"] = pack(parameter.codes_NK, parameter.scheme.bits).cpu()
            tensors[f"{parameter.name}.scales"] = parameter.scale_NG.clone().cpu()
        return tensors | with_prefix("floats.", self._floats.weights())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """In place: layers and optimizer keep the tensors they hold."""
        for parameter in self.quantized:
            codes_NP = tensors[f"{parameter.name}.codes"].to(parameter.device)
            parameter.codes_NK.copy_(unpack(codes_NP, parameter.scheme.bits, parameter.shape[1]))
            parameter.scale_NG.copy_(tensors[f"{parameter.name}.scales"])
        self._floats.load_weights(without_prefix("floats.", tensors))


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
