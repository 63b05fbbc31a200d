"""Post-training quantization by others, at a given bit map.

Every function takes a float causal LM and changes its linear layers in place to the dequantized weights of its method:
per-layer bits and group sizes are those of the map, scales are rounded to float16, everything else stays as it is. What
differs is told by `zero_bits`, from which the effective bits per weight are counted.

Shape letters: N output features, K input features, G groups in all, S features per group, B windows, T tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peers.gptq import gptq
from peers.rounding import Grid, round_to_nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a method is given."""

    model: Any  # a transformers causal LM in float32, changed in place
    tokenizer: Any
    grids: Mapping[str, Grid]  # by module path of the linear layer, in the order of computation
    windows_BT: Tensor
    seed: int
    autoround_iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    quantize: Callable[[Task], None]
    zero_bits: Callable[[int], int]  # stored for each group's zero point, by code width


def rtn(task: Task) -> None:
    """Round to nearest between each group's minimum and maximum."""
    for name, grid in task.grids.items():
        weight = task.model.get_submodule(name).weight
        weight.data = round_to_nearest(weight.data.float(), grid).to(weight.dtype)


def hqq(task: Task) -> None:
    """Half-quadratic quantization by its authors' library, on weights alone; its zero points are float.

    The library groups the flattened matrix; the group size divides every row here, so that no group straddles two.
    Source: Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog/.
    """
    from hqq.core.quantize import Quantizer  # type: ignore[import-not-found,unused-ignore]  # its own environment

    for name, grid in task.grids.items():
        weight = task.model.get_submodule(name).weight
        codes_GS, meta = Quantizer.quantize(
            weight.data.float(),
            nbits=grid.bits,
            channel_wise=True,
            group_size=grid.group_size,
            optimize=True,
            round_zero=grid.bits == 4,  # the library's own default
            axis=1,
            bitpack=False,
            compute_dtype=torch.float32,
            view_as_float=False,
            device=str(weight.device),
        )
        scale_G1, zero_G1 = (meta[part].half().float() for part in ("scale", "zero"))
        weight.data = ((codes_GS.float() - zero_G1) * scale_G1).view_as(weight).to(weight.dtype)


def autoround(task: Task) -> None:
    """Signed gradient descent on rounding, block by block, by Intel's library.

    Source: Cheng et al. 2023, https://arxiv.org/abs/2309.05516.
    """
    from auto_round import AutoRound  # type: ignore[import-not-found,unused-ignore]  # its own environment

    rows = [
        {"input_ids": row.unsqueeze(0), "attention_mask": torch.ones_like(row).unsqueeze(0)} for row in task.windows_BT
    ]
    first = next(iter(task.grids.values()))
    tuner = AutoRound(
        task.model,
        task.tokenizer,
        bits=first.bits,
        group_size=first.group_size,
        sym=False,
        layer_config={
            name: {"bits": grid.bits, "group_size": grid.group_size, "sym": False} for name, grid in task.grids.items()
        },
        iters=task.autoround_iterations,
        nsamples=len(rows),
        seqlen=task.windows_BT.shape[1],
        batch_size=min(8, len(rows)),
        dataset=rows,
        seed=task.seed,
        device_map=str(task.model.device),
        enable_torch_compile=False,
    )
    tuner.quantize()


def gptq_textbook(task: Task) -> None:
    gptq(task.model, task.grids, task.windows_BT)


def _integer_zero(bits: int) -> int:
    return bits


def _float_zero(bits: int) -> int:
    return 4 if bits == 4 else 16  # as the library rounds it


PEERS: dict[str, Peer] = {
    "rtn": Peer(quantize=rtn, zero_bits=_integer_zero),
    "hqq": Peer(quantize=hqq, zero_bits=_float_zero),
    "gptq": Peer(quantize=gptq_textbook, zero_bits=_integer_zero),
    "autoround": Peer(quantize=autoround, zero_bits=_integer_zero),
}


def bits_per_weight(peer: Peer, grids: Mapping[str, Grid], weights: Mapping[str, int]) -> float:
    """With each group's float16 scale and its zero point."""
    total = sum(weights[name] for name in grids)
    bits = sum(
        weights[name] * (grid.bits + (16 + peer.zero_bits(grid.bits)) / grid.group_size) for name, grid in grids.items()
    )
    return bits / total
