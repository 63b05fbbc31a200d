"""Quantized weights as safetensors tensors: packed codes, scales, packed zero points, and the JSON that explains them.

For a parameter `name` of N x K with G groups per row:

    name.codes    uint8    (N, ceil(K * bits / 8))
    name.scales   float16  (N, G)
    name.zeros    uint8    (N, ceil(G * bits / 8)); float16 (N, G) with float zero points; absent if symmetric
    name.columns  int32    (K,) input channels of the layer, only for a column block, whose name is "<layer>#<bits>"

Version 1 of the layout had neither symmetric grids nor float zero points nor column blocks; it is still read.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import Affine
from bitsmith_engine.quant.pack import pack, packed_width, unpack
from bitsmith_engine.quant.parameter import COLUMN_BITS, QuantParameter, layer_of
from bitsmith_engine.quant.scheme import SCALE_BITS, Scheme, ZeroKind

CODES_FILE = "codes.safetensors"
LAYOUT_FILE = "quantization.json"
REST_FILE = "rest.safetensors"

Parameters = dict[str, QuantParameter]
"""By name (module path of the linear layer, with #bits for a column block), in the model's order."""

Rest = dict[str, Tensor]
"""Float parameters of the model that are no longer the base's, by name."""


class LayerLayout(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bits: int
    group_size: int
    output_features: int
    input_features: int  # of the block, where it is one
    symmetric: bool = False
    zero_kind: ZeroKind = "integer"
    column_block: bool = False

    @property
    def scheme(self) -> Scheme:
        return Scheme(bits=self.bits, group_size=self.group_size, symmetric=self.symmetric, zero_kind=self.zero_kind)

    @property
    def layer_name(self) -> str:
        return layer_of(self.name)

    @property
    def packed_bytes(self) -> int:
        columns = COLUMN_BITS // 8 * self.input_features if self.column_block else 0
        return packed_size(self.scheme, self.output_features, self.input_features) + columns

    @property
    def tensor_names(self) -> list[str]:
        parts = ["codes", "scales"]
        if not self.symmetric:
            parts.append("zeros")
        if self.column_block:
            parts.append("columns")
        return [f"{self.name}.{part}" for part in parts]


class Layout(BaseModel):
    """What a reader needs besides the tensors. Codes are packed with the first in the lowest bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["bitsmith-codes/1", "bitsmith-codes/2"] = "bitsmith-codes/2"
    formula: str = "(code - zero) * scale"
    layers: list[LayerLayout]


class PackedBytes(NamedTuple):
    codes: int
    scales_and_zeros: int
    columns: int


def packed_size(scheme: Scheme, N: int, K: int) -> int:
    """Bytes of codes, scales and zero points, without making them."""
    G = K // scheme.group_size
    return N * (packed_width(K, scheme.bits) + G * SCALE_BITS // 8 + packed_width(G, scheme.zero_bits))


def packed_tensors(parameter: QuantParameter) -> dict[str, Tensor]:
    scheme = parameter.scheme
    tensors = {
        "codes": pack(parameter.codes_NK, scheme.bits).cpu(),
        "scales": parameter.scale_NG.cpu().contiguous(),
    }
    if scheme.zero_kind == "float":
        tensors["zeros"] = parameter.zero_NG.cpu().contiguous()
    elif not scheme.symmetric:
        tensors["zeros"] = pack(parameter.zero_NG, scheme.bits).cpu()
    if parameter.columns_K is not None:
        tensors["columns"] = parameter.columns_K.to("cpu", torch.int32)
    return {f"{parameter.name}.{part}": tensor for part, tensor in tensors.items()}


def layout_of(parameters: Iterable[QuantParameter]) -> Layout:
    return Layout(
        layers=[
            LayerLayout(
                name=parameter.name,
                bits=parameter.scheme.bits,
                group_size=parameter.scheme.group_size,
                output_features=parameter.shape[0],
                input_features=parameter.shape[1],
                symmetric=parameter.scheme.symmetric,
                zero_kind=parameter.scheme.zero_kind,
                column_block=parameter.columns_K is not None,
            )
            for parameter in parameters
        ]
    )


def read_layout(folder: Path) -> Layout:
    """Raises BadModel if there is none that this version reads."""
    try:
        return Layout.model_validate_json((folder / LAYOUT_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise BadModel(
            f"{LAYOUT_FILE} cannot be read: {error}; it was written by another version or damaged"
        ) from error


def read_parameter(layer: LayerLayout, tensors: Mapping[str, Tensor]) -> QuantParameter:
    """The parameter whose packed_tensors these are, bit for bit."""
    scheme = layer.scheme
    scale_NG = tensors[f"{layer.name}.scales"]
    if scheme.symmetric:
        zero_NG = torch.full_like(scale_NG, scheme.zero_choices[0], dtype=torch.uint8)
    elif scheme.zero_kind == "float":
        zero_NG = tensors[f"{layer.name}.zeros"]
    else:
        zero_NG = unpack(tensors[f"{layer.name}.zeros"], layer.bits, scale_NG.shape[1])
    codes_NK = unpack(tensors[f"{layer.name}.codes"], layer.bits, layer.input_features)
    columns_K = tensors[f"{layer.name}.columns"].to(torch.int64) if layer.column_block else None
    return QuantParameter(layer.name, scheme, Affine(codes_NK, scale_NG, zero_NG), columns_K)


def save_parameters(parameters: Parameters, folder: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for parameter in parameters.values():
        tensors |= packed_tensors(parameter)
    save_file(tensors, folder / CODES_FILE)
    (folder / LAYOUT_FILE).write_text(layout_of(parameters.values()).model_dump_json(indent=1))


def load_parameters(folder: Path, device: torch.device, *, weights_file: str = CODES_FILE) -> Parameters:
    """Raises BadModel if the folder is not what save_parameters leaves."""
    parameters: Parameters = {}
    try:
        with safe_open(folder / weights_file, framework="pt") as file:
            for layer in read_layout(folder).layers:
                tensors = {name: file.get_tensor(name).to(device) for name in layer.tensor_names}
                parameters[layer.name] = read_parameter(layer, tensors)
    except (OSError, SafetensorError) as error:
        raise BadModel(f"{weights_file} cannot be read: {error}; it is damaged or of another model") from error
    return parameters


def packed_bytes(parameter: QuantParameter) -> PackedBytes:
    sizes = {name.rsplit(".", 1)[1]: tensor.nbytes for name, tensor in packed_tensors(parameter).items()}
    return PackedBytes(sizes["codes"], sizes["scales"] + sizes.get("zeros", 0), sizes.get("columns", 0))


def save_rest(rest: Mapping[str, Tensor], folder: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in rest.items()}, folder / REST_FILE)


def load_rest(folder: Path) -> Rest:
    """What save_rest left, on the CPU; nothing if it was never called."""
    path = folder / REST_FILE
    return load_file(path) if path.is_file() else {}
