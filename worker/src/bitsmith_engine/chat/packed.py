"""Linear layers whose weight stays packed in memory as it is on disk, unpacked for each product and forgotten.

A weight of 2.5 bits takes 2.5 bits here (and 8 where an optimizer works on its codes, nn.qlinear). Unpacking costs more
time than the product with one token, so layers may keep their unpacked weight while there is room: first come, first
kept. Both compute the same bits.

Shape letters: N output features, K input features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.parameter import by_layer, dequantize_layer
from bitsmith_engine.quant.storage import LayerLayout, Layout, read_parameter


class PackedLinear(nn.Module):
    """nn.Linear for inference, on the packed tensors of one layer's blocks."""

    def __init__(
        self, blocks: Sequence[LayerLayout], tensors: Mapping[str, Tensor], bias: Tensor | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.tensors = dict(tensors)
        self.bias = bias
        self.dtype = dtype
        self.kept_NK: Tensor | None = None

    @property
    def out_features(self) -> int:
        return self.blocks[0].output_features

    @property
    def in_features(self) -> int:
        return sum(block.input_features for block in self.blocks)

    @property
    def packed_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def unpacked_bytes(self) -> int:
        return self.out_features * self.in_features * self.dtype.itemsize

    def weight(self) -> Tensor:
        if self.kept_NK is not None:
            return self.kept_NK
        return dequantize_layer([read_parameter(block, self.tensors) for block in self.blocks], self.dtype)

    def keep_unpacked(self) -> None:
        self.kept_NK = self.weight()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias)


def pack_linears(
    model: nn.Module, layout: Layout, weights_file: Path, device: torch.device, dtype: torch.dtype
) -> list[PackedLinear]:
    """Put packed layers where the layout has any, in the model's order; biases are the model's own.

    Raises:
        BadModel: the file is damaged or of another model.
    """
    packed = []
    try:
        with safe_open(weights_file, framework="pt") as file:
            for layer_name, blocks in by_layer(layout.layers).items():
                old = model.get_submodule(layer_name)
                if not isinstance(old, nn.Linear):
                    raise BadModel(f"{layer_name} is no linear layer of this model; its files do not belong together")
                names = [name for block in blocks for name in block.tensor_names]
                tensors = {name: file.get_tensor(name).to(device) for name in names}
                layer = PackedLinear(blocks, tensors, None if old.bias is None else old.bias.detach(), dtype)
                if (layer.out_features, layer.in_features) != (old.out_features, old.in_features):
                    raise BadModel(
                        f"{layer_name} is {old.out_features} x {old.in_features} in config.json and "
                        f"{layer.out_features} x {layer.in_features} in the weights; its files do not belong together"
                    )
                path, _, leaf = layer_name.rpartition(".")
                setattr(model.get_submodule(path), leaf, layer)
                packed.append(layer)
    except (OSError, SafetensorError, AttributeError) as error:
        raise BadModel(f"{weights_file.name} cannot be read: {error}; it is damaged or of another model") from error
    return packed


def keep_while_room(layers: Sequence[PackedLinear], room_bytes: int) -> int:
    """Unpack the first layers for good as long as they fit. Returns the bytes that they take."""
    kept_bytes = 0
    for layer in layers:
        if kept_bytes + layer.unpacked_bytes > room_bytes:
            break
        layer.keep_unpacked()
        kept_bytes += layer.unpacked_bytes
    return kept_bytes
