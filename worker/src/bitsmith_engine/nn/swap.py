"""Put quantized layers where a model has float ones, by name."""

from torch import nn

from bitsmith_engine.errors import BadModel
from bitsmith_engine.nn.qlinear import QuantLinear
from bitsmith_engine.quant.parameter import GradientSink, by_layer
from bitsmith_engine.quant.storage import Parameters


def swap_linears(model: nn.Module, parameters: Parameters, *, prefix: str = "") -> list[QuantLinear]:
    """Replace each named nn.Linear; its float weight is dropped, its bias kept. Returns the new layers.

    Args:
        parameters: all column blocks of a layer, or none.
        prefix: where in the causal LM `model` stands, such as "model.layers.3."; parameters of layers elsewhere are
            left alone.
    """
    swapped = []
    for layer_name, blocks in by_layer(parameters.values()).items():
        if not layer_name.startswith(prefix):
            continue
        inside = layer_name.removeprefix(prefix)
        path, _, leaf = inside.rpartition(".")
        old = model.get_submodule(inside)
        if not isinstance(old, nn.Linear):
            raise TypeError(f"{layer_name} is a {type(old).__name__}; only nn.Linear can be swapped")
        layer = QuantLinear(blocks, None if old.bias is None else old.bias.detach())
        if (layer.out_features, layer.in_features) != (old.out_features, old.in_features):
            raise BadModel(
                f"{layer_name} is {old.out_features} x {old.in_features} in the model, its quantized weight is "
                f"{layer.out_features} x {layer.in_features}; quantize this base again"
            )
        setattr(model.get_submodule(path), leaf, layer)
        swapped.append(layer)
    return swapped


def quant_linears(model: nn.Module) -> list[QuantLinear]:
    return [module for module in model.modules() if isinstance(module, QuantLinear)]


def attach_sink(model: nn.Module, sink: GradientSink | None) -> None:
    for layer in quant_linears(model):
        layer.attach(sink)
