"""The first codes of every layer, from float weights that are read and dropped one layer at a time."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bitsmith_engine.ports import Observer
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import PREFERRED_GROUP_SIZE, scheme_for
from bitsmith_engine.quant.storage import Parameters


def quantize_layers(
    bits: Mapping[str, int],
    read: Callable[[str], Tensor],
    device: torch.device,
    observer: Observer,
    *,
    clip_search: bool,
) -> Parameters:
    """Round every layer (module path -> bits) to its grid; `read` gives a layer's float weight (N, K)."""
    parameters: Parameters = {}
    for done, (name, width) in enumerate(bits.items(), start=1):
        w_NK = read(name).to(device)
        scheme = scheme_for(width, w_NK.shape[1])
        parameters[name] = QuantParameter(name, scheme, quantize(w_NK, scheme, clip_search=clip_search))
        observer.progress(done, len(bits))
    return parameters


def fallback_notes(parameters: Parameters) -> list[str]:
    """Where a group is smaller than its width prefers, in words."""
    counts: dict[tuple[int, int, int], int] = {}
    for parameter in parameters.values():
        scheme = parameter.scheme
        if scheme.group_size != PREFERRED_GROUP_SIZE[scheme.bits]:
            key = (scheme.bits, scheme.group_size, parameter.shape[1])
            counts[key] = counts.get(key, 0) + 1
    return [
        f"{count} INT{bits} layers with {K} input features use groups of {group_size}: "
        f"{PREFERRED_GROUP_SIZE[bits]} does not divide {K}"
        for (bits, group_size, K), count in sorted(counts.items())
    ]
