"""A causal LM on quantized weights: codes where it had linears, its other weights as a 16-bit file holds them."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from bitsmith_engine.errors import BadModel
from bitsmith_engine.models.opening import Base, CausalLM, build_empty, fill, parameter_names, put
from bitsmith_engine.nn.swap import swap_linears
from bitsmith_engine.quant.storage import Parameters
from bitsmith_engine.runtime import Runtime

REST_DTYPE = torch.bfloat16
"""Embeddings, norms, biases and head in the checkpoint: lossless for a base published in bfloat16, as most are."""


def rest_names(base: Base, parameters: Parameters) -> list[str]:
    """The model's parameters that stay in floating point."""
    quantized = {f"{parameter.layer_name}.weight" for parameter in parameters.values()}
    tied = {"lm_head.weight"} if base.config.tie_word_embeddings else set()
    return [name for name in parameter_names(build_empty(base.config)) if name not in quantized | tied]


def load_quantized(
    base: Base, parameters: Parameters, runtime: Runtime, rest: Mapping[str, Tensor] = MappingProxyType({})
) -> CausalLM:
    """The model that the checkpoint will be; its layers own `parameters`, so training the model changes them.

    Args:
        rest: float parameters that are no longer the base's.

    Raises:
        BadModel: the base lacks a parameter, or `rest` holds one that this model does not have in floating point.
    """
    model = build_empty(base.config)
    names = rest_names(base, parameters)
    for name, tensor in rest.items():
        if name not in names or tensor.shape != model.get_parameter(name).shape:
            raise BadModel(
                f"the changed weight {name} of shape {tuple(tensor.shape)} is none of the base's float parameters; "
                "it belongs to another base: quantize this one again"
            )
        put(model, name, tensor.to(REST_DTYPE).to(runtime.device, runtime.compute_dtype))
    fill(model, base, [name for name in names if name not in rest], runtime, through=REST_DTYPE)
    swap_linears(model, parameters)
    return model
