"""OUT/artifacts: the native checkpoint, its plain copy, and everything needed to judge both.

model.safetensors    codes, scales and zeros of the quantized layers (layout: bitsmith_engine.quant.storage);
                     all other weights in bfloat16 under their own names
quantization.json    which layers, widths and group sizes
config.json, tokenizer files
evals.json           scores and items
bf16/                the same model dequantized, for transformers and everything that reads its folders;
                     a weight there is the native one rounded to bfloat16
manifest.json        written last
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bitsmith_core.bundle import LayerBits, QuantizationFacts
from safetensors import safe_open
from torch import Tensor

from bitsmith_engine.evaluate.suite import Evals
from bitsmith_engine.export.shards import write_shards
from bitsmith_engine.models.opening import Base, build_empty
from bitsmith_engine.nn.assembly import REST_DTYPE, rest_names
from bitsmith_engine.quant.storage import (
    LAYOUT_FILE,
    Parameters,
    layout_of,
    load_parameters,
    packed_bytes,
    packed_tensors,
)

MODEL_FILE = "model.safetensors"
EVALS_FILE = "evals.json"


class Bundle(NamedTuple):
    config: dict[str, Any]
    parameters: Parameters
    rest: dict[str, Tensor]  # every other weight, by name


def write_native(base: Base, parameters: Parameters, evals: Evals, folder: Path) -> int:
    """The native checkpoint. Returns the bytes of its weights."""

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for parameter in parameters.values():
            yield from packed_tensors(parameter).items()
        yield from _rest(base, parameters)

    # One file whatever its size: at two to four bits a model is small, and a reader needs no index.
    total = write_shards(tensors(), folder, shard_bytes=1 << 62)
    (folder / LAYOUT_FILE).write_text(layout_of(parameters.values()).model_dump_json(indent=1))
    (folder / EVALS_FILE).write_text(evals.model_dump_json(indent=1))
    _write_surroundings(base, folder)
    return total


def write_bf16(base: Base, parameters: Parameters, folder: Path) -> None:
    """A folder that transformers loads without any code of ours."""

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for parameter in parameters.values():
            yield f"{parameter.name}.weight", parameter.dequantize(torch.bfloat16).cpu()
        for name, tensor in _rest(base, parameters):
            yield name, tensor.to(torch.bfloat16)

    folder.mkdir()
    write_shards(tensors(), folder)
    _write_surroundings(base, folder)


def load_bundle(folder: Path) -> Bundle:
    """Read a native checkpoint; its dequantized weights equal the trained ones bit for bit."""
    parameters = load_parameters(folder, torch.device("cpu"), weights_file=MODEL_FILE)
    packed = {f"{name}.{part}" for name in parameters for part in ("codes", "scales", "zeros")}
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
        bpw_effective=sum(parameters[name].scheme.bits_per_weight * weights[name] for name in parameters) / quantized,
        quantized_weights=quantized,
        float_weights=floats,
        quantized_bytes=sum(size.codes + size.scales_and_zeros for size in sizes.values()),
        model_bytes=model_bytes,
        float_bytes=2 * (quantized + floats),
        layers=[
            LayerBits(
                name=name,
                bits=parameter.scheme.bits,
                group_size=parameter.scheme.group_size,
                weights=weights[name],
                sensitivity=sensitivity.get(name),
            )
            for name, parameter in parameters.items()
        ],
        notes=notes,
    )


def _rest(base: Base, parameters: Parameters) -> Iterator[tuple[str, Tensor]]:
    for name in rest_names(base, parameters):
        yield name, base.weights.get(name).to(REST_DTYPE)


def _write_surroundings(base: Base, folder: Path) -> None:
    architecture = type(build_empty(base.config)).__name__
    config = base.config.to_diff_dict() | {"dtype": "bfloat16", "architectures": [architecture]}
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    base.tokenizer.save_pretrained(folder)
