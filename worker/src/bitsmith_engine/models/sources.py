"""Where a base's float weights come from, one tensor at a time: safetensors or GGUF, never a pickle."""

import json
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PretrainedConfig

from bitsmith_engine.errors import BadModel


class WeightSource(Protocol):
    def names(self) -> frozenset[str]:
        """Parameter names as the transformers model has them."""

    def get(self, name: str) -> Tensor:
        """One parameter in its stored float type, on the CPU."""


class SafetensorsSource:
    """A transformers folder: one model.safetensors, or shards with an index."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        if index.is_file():
            shard_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
            # An index is data from outside: a shard is a file beside it, wherever the name points.
            self._files = {name: folder / Path(shard).name for name, shard in shard_of.items()}
        elif single.is_file():
            try:
                with safe_open(single, framework="pt") as file:
                    self._files = dict.fromkeys(file.keys(), single)
            except (OSError, SafetensorError) as error:
                raise BadModel(f"{single.name} cannot be read: {error}; fetch the model again") from error
        else:
            raise BadModel(_no_safetensors(folder))

    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def get(self, name: str) -> Tensor:
        try:
            with safe_open(self._files[name], framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise BadModel(f"{self._files[name].name} cannot be read: {error}; fetch the base again") from error
        return tensor


class GgufSource:
    """One .gguf file, dequantized tensor by tensor."""

    def __init__(self, path: Path, config: PretrainedConfig, parameters: list[str]) -> None:
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, OSError) as error:
            raise BadModel(f"{path.name} is not a readable GGUF file: {error}") from error
        self._config = config
        tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._architecture = _gguf_architecture(self._reader)
        name_map = gguf.get_tensor_name_map(self._architecture, config.num_hidden_layers)

        self._tensors: dict[str, Any] = {}
        for parameter in parameters:
            stem, _, kind = parameter.rpartition(".")
            theirs = name_map.get_name(stem)
            if theirs is not None and f"{theirs}.{kind}" in tensors:
                self._tensors[parameter] = tensors[f"{theirs}.{kind}"]

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def get(self, name: str) -> Tensor:
        stored = self._tensors[name]
        values = gguf.quants.dequantize(stored.data, stored.tensor_type)
        if self._architecture == gguf.MODEL_ARCH.LLAMA:
            values = self._undo_rotary_order(name, values)
        return torch.from_numpy(np.array(values, dtype=np.float32))  # a copy: the reader's memory is a read-only map

    def _undo_rotary_order(self, name: str, values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """llama.cpp interleaves the halves of each rotated head; transformers keeps them apart.

        Source: convert_hf_to_gguf.py of llama.cpp, LlamaModel.permute.
        """
        module = name.rsplit(".", 2)[-2]
        heads = {"q_proj": self._config.num_attention_heads, "k_proj": self._config.num_key_value_heads}.get(module)
        if heads is None:
            return values
        half = values.shape[0] // heads // 2
        return values.reshape(heads, half, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _gguf_architecture(reader: Any) -> gguf.MODEL_ARCH:
    field = reader.get_field("general.architecture")
    name = field.contents() if field is not None else None
    for architecture, known in gguf.MODEL_ARCH_NAMES.items():
        if known == name:
            return architecture
    raise BadModel(f"the GGUF file is of the architecture {name!r}, which this engine does not know")


def _no_safetensors(folder: Path) -> str:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        return (
            f"the base's weights are pickles ({', '.join(pickles[:3])}), which can run code when opened; "
            "use a base that publishes safetensors"
        )
    return "the base's folder holds neither model.safetensors nor a .gguf file"
