"""The first codes of every layer, from float weights that are read and dropped one layer at a time."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bitsmith_engine.ports import Observer
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.plan import fallback_notes
from bitsmith_engine.quant.scheme import scheme_for
from bitsmith_engine.quant.storage import Parameters

__all__ = ["fallback_notes", "quantize_layers"]


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
        parameters[name] = QuantParameter(name, scheme, quantize(w_NK, scheme, clip_search=clip_search, name=name))
        observer.progress(done, len(bits))
    return parameters
