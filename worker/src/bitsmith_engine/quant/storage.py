"""Quantized weights as safetensors tensors: packed codes, scales, packed zero points, and the JSON that explains them.

For a layer `name` of N x K with G groups per row:

    name.codes   uint8    (N, ceil(K * bits / 8))
    name.scales  float16  (N, G)
    name.zeros   uint8    (N, ceil(G * bits / 8))
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitsmith_engine.quant.affine import Affine
from bitsmith_engine.quant.pack import pack, unpack
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme

CODES_FILE = "codes.safetensors"
LAYOUT_FILE = "quantization.json"

Parameters = dict[str, QuantParameter]
"""By module path of the linear layer, in the model's order."""


class LayerLayout(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bits: int
    group_size: int
    output_features: int
    input_features: int


class Layout(BaseModel):
    """What a reader needs besides the tensors. Codes are packed with the first in the lowest bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str = "bitsmith-codes/1"
    formula: str = "(code - zero) * scale"
    layers: list[LayerLayout]


class PackedBytes(NamedTuple):
    codes: int
    scales_and_zeros: int


def packed_tensors(parameter: QuantParameter) -> dict[str, Tensor]:
    bits = parameter.scheme.bits
    return {
        f"{parameter.name}.codes": pack(parameter.codes_NK, bits).cpu(),
        f"{parameter.name}.scales": parameter.scale_NG.cpu().contiguous(),
        f"{parameter.name}.zeros": pack(parameter.zero_NG, bits).cpu(),
    }


def layout_of(parameters: Iterable[QuantParameter]) -> Layout:
    return Layout(
        layers=[
            LayerLayout(
                name=parameter.name,
                bits=parameter.scheme.bits,
                group_size=parameter.scheme.group_size,
                output_features=parameter.shape[0],
                input_features=parameter.shape[1],
            )
            for parameter in parameters
        ]
    )


def read_parameter(layer: LayerLayout, tensors: Mapping[str, Tensor]) -> QuantParameter:
    """The parameter whose packed_tensors these are, bit for bit."""
    scheme = Scheme(bits=layer.bits, group_size=layer.group_size)
    scale_NG = tensors[f"{layer.name}.scales"]
    affine = Affine(
        unpack(tensors[f"{layer.name}.codes"], layer.bits, layer.input_features),
        scale_NG,
        unpack(tensors[f"{layer.name}.zeros"], layer.bits, scale_NG.shape[1]),
    )
    return QuantParameter(layer.name, scheme, affine)


def save_parameters(parameters: Parameters, folder: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for parameter in parameters.values():
        tensors |= packed_tensors(parameter)
    save_file(tensors, folder / CODES_FILE)
    (folder / LAYOUT_FILE).write_text(layout_of(parameters.values()).model_dump_json(indent=1))


def load_parameters(folder: Path, device: torch.device, *, weights_file: str = CODES_FILE) -> Parameters:
    layout = Layout.model_validate_json((folder / LAYOUT_FILE).read_bytes())
    parameters: Parameters = {}
    with safe_open(folder / weights_file, framework="pt") as file:
        for layer in layout.layers:
            names = [f"{layer.name}.{part}" for part in ("codes", "scales", "zeros")]
            tensors = {name: file.get_tensor(name).to(device) for name in names}
            parameters[layer.name] = read_parameter(layer, tensors)
    return parameters


def packed_bytes(parameter: QuantParameter) -> PackedBytes:
    sizes = {name.rsplit(".", 1)[1]: tensor.nbytes for name, tensor in packed_tensors(parameter).items()}
    return PackedBytes(sizes["codes"], sizes["scales"] + sizes["zeros"])
