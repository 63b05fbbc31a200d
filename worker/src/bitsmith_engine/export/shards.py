"""safetensors files of bounded size with the index that transformers reads."""

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 2 << 30


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path, *, shard_bytes: int = SHARD_BYTES) -> int:
    """Write tensors as they come, holding one shard in memory. Returns the bytes of all tensors.

    One shard becomes model.safetensors; several become model-00001.safetensors and so on, with an index.
    """
    shard: dict[str, Tensor] = {}
    shard_of: dict[str, str] = {}
    total = count = 0
    for name, tensor in tensors:
        if shard and sum(held.nbytes for held in shard.values()) + tensor.nbytes > shard_bytes:
            count += 1
            _write(shard, folder / _name(count))
            shard = {}
        shard[name] = tensor.contiguous()
        shard_of[name] = _name(count + 1)
        total += tensor.nbytes

    if count == 0:
        _write(shard, folder / "model.safetensors")
        return total
    _write(shard, folder / _name(count + 1))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(shard_of.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return total


def _name(number: int) -> str:
    return f"model-{number:05d}.safetensors"


def _write(shard: dict[str, Tensor], path: Path) -> None:
    save_file(shard, path, metadata={"format": "pt"})
