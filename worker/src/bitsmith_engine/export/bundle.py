"""OUT/artifacts: the native checkpoint, its plain copy, and everything needed to judge both.

model.safetensors    codes, scales and zeros of the quantized layers (layout: bitsmith_engine.quant.storage);
                     all other weights in bfloat16 under their own names
quantization.json    which layers, widths and group sizes
config.json, tokenizer files
evals.json           scores and items
bf16/                the same model dequantized, for transformers and everything that reads its folders;
                     a weight there is the native one rounded to bfloat16
bits.svg, sensitivity.json   what the search found, if there was one
manifest.json        written last

A job that trains adapters leaves adapter/ (peft's format), bf16/ (merged), evals.json and manifest.json instead.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bitsmith_core.bundle import EVALS, Evals, LayerBits, QuantizationFacts
from safetensors import safe_open
from torch import Tensor

from bitsmith_engine.export.shards import write_shards
from bitsmith_engine.models.opening import Base, build_empty
from bitsmith_engine.nn.assembly import REST_DTYPE, rest_names
from bitsmith_engine.quant.parameter import by_layer, dequantize_layer
from bitsmith_engine.quant.storage import (
    LAYOUT_FILE,
    Parameters,
    Rest,
    layout_of,
    load_parameters,
    packed_bytes,
    packed_tensors,
    read_layout,
)

MODEL_FILE = "model.safetensors"


class Bundle(NamedTuple):
    config: dict[str, Any]
    parameters: Parameters
    rest: dict[str, Tensor]  # every other weight, by name


def write_native(base: Base, parameters: Parameters, rest: Rest, evals: Evals, folder: Path) -> int:
    """The native checkpoint. Returns the bytes of its weights.

    Args:
        rest: float parameters that are no longer the base's.
    """

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for parameter in parameters.values():
            yield from packed_tensors(parameter).items()
        yield from _rest(base, parameters, rest)

    # One file whatever its size: at two to four bits a model is small, and a reader needs no index.
    total = write_shards(tensors(), folder, shard_bytes=1 << 62)
    (folder / LAYOUT_FILE).write_text(layout_of(parameters.values()).model_dump_json(indent=1))
    (folder / EVALS).write_text(evals.model_dump_json(indent=1))
    _write_surroundings(base, folder)
    return total


def write_bf16(base: Base, parameters: Parameters, rest: Rest, folder: Path) -> None:
    """A folder that transformers loads without any code of ours."""

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for layer, blocks in by_layer(parameters.values()).items():
            yield f"{layer}.weight", dequantize_layer(blocks, torch.bfloat16).cpu()
        for name, tensor in _rest(base, parameters, rest):
            yield name, tensor.to(torch.bfloat16)

    folder.mkdir()
    write_shards(tensors(), folder)
    _write_surroundings(base, folder)


def write_merged(base: Base, merged: Iterable[tuple[str, Tensor]], adapter: Path, evals: Evals, folder: Path) -> None:
    """The bundle of an adapter: adapter/ as peft has it, and bf16/ with the merged weights."""
    shutil.copytree(adapter, folder / "adapter")
    (folder / "bf16").mkdir()
    write_shards(iter(merged), folder / "bf16")
    (folder / EVALS).write_text(evals.model_dump_json(indent=1))
    _write_surroundings(base, folder / "bf16")


def load_bundle(folder: Path) -> Bundle:
    """Read a native checkpoint; its dequantized weights equal the trained ones bit for bit."""
    parameters = load_parameters(folder, torch.device("cpu"), weights_file=MODEL_FILE)
    packed = {name for layer in read_layout(folder).layers for name in layer.tensor_names}
    with safe_open(folder / MODEL_FILE, framework="pt") as file:
        rest = {name: file.get_tensor(name) for name in file.keys() if name not in packed}  # noqa: SIM118 - not a dict
    return Bundle(json.loads((folder / "config.json").read_text()), parameters, rest)


def quantization_facts(
    base: Base,
    parameters: Parameters,
    sensitivity: dict[str, float],
    notes: list[str],
    *,
    scheme: str,
    model_bytes: int,
) -> QuantizationFacts:
    """What the registry shows; sensitivity is by layer name in nats per token, empty if nothing was measured."""
    sizes = {name: packed_bytes(parameter) for name, parameter in parameters.items()}
    weights = {name: parameter.codes_NK.numel() for name, parameter in parameters.items()}
    quantized = sum(weights.values())
    skeleton = build_empty(base.config)
    floats = sum(skeleton.get_parameter(name).numel() for name in rest_names(base, parameters))
    return QuantizationFacts(
        scheme=scheme,
        bpw_codes=sum(parameters[name].scheme.bits * weights[name] for name in parameters) / quantized,
        bpw_effective=sum(parameters[name].bits_per_weight * weights[name] for name in parameters) / quantized,
        quantized_weights=quantized,
        float_weights=floats,
        quantized_bytes=sum(sum(size) for size in sizes.values()),
        model_bytes=model_bytes,
        float_bytes=2 * (quantized + floats),
        layers=[
            LayerBits(
                name=name,
                bits=parameter.scheme.bits,
                group_size=parameter.scheme.group_size,
                weights=weights[name],
                sensitivity=sensitivity.get(parameter.layer_name),
            )
            for name, parameter in parameters.items()
        ],
        notes=notes,
    )


def _rest(base: Base, parameters: Parameters, rest: Rest) -> Iterator[tuple[str, Tensor]]:
    for name in rest_names(base, parameters):
        tensor = rest[name] if name in rest else base.weights.get(name)
        yield name, tensor.to(REST_DTYPE)


def _write_surroundings(base: Base, folder: Path) -> None:
    architecture = type(build_empty(base.config)).__name__
    config = base.config.to_diff_dict() | {"dtype": "bfloat16", "architectures": [architecture]}
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    base.tokenizer.save_pretrained(folder)
