"""Put quantized layers where a model has float ones, by name."""

from torch import nn

from bitsmith_engine.nn.qlinear import QuantLinear
from bitsmith_engine.quant.parameter import GradientSink
from bitsmith_engine.quant.storage import Parameters


def swap_linears(model: nn.Module, parameters: Parameters) -> list[QuantLinear]:
    """Replace each named nn.Linear; its float weight is dropped, its bias kept. Returns the new layers."""
    swapped = []
    for name, parameter in parameters.items():
        path, _, leaf = name.rpartition(".")
        old = model.get_submodule(name)
        if not isinstance(old, nn.Linear):
            raise TypeError(f"{name} is a {type(old).__name__}; only nn.Linear can be swapped")
        layer = QuantLinear(parameter, None if old.bias is None else old.bias.detach())
        setattr(model.get_submodule(path), leaf, layer)
        swapped.append(layer)
    return swapped


def quant_linears(model: nn.Module) -> list[QuantLinear]:
    return [module for module in model.modules() if isinstance(module, QuantLinear)]


def attach_sink(model: nn.Module, sink: GradientSink | None) -> None:
    for layer in quant_linears(model):
        layer.attach(sink)
