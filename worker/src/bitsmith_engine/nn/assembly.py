"""A causal LM on quantized weights: codes where it had linears, its other weights as a 16-bit file holds them."""

import torch

from bitsmith_engine.models.opening import Base, CausalLM, build_empty, fill, parameter_names
from bitsmith_engine.nn.swap import swap_linears
from bitsmith_engine.quant.storage import Parameters
from bitsmith_engine.runtime import Runtime

REST_DTYPE = torch.bfloat16
"""Embeddings, norms, biases and head in the checkpoint: lossless for a base published in bfloat16, as most are."""


def rest_names(base: Base, parameters: Parameters) -> list[str]:
    """The model's parameters that stay in floating point."""
    quantized = {f"{name}.weight" for name in parameters}
    tied = {"lm_head.weight"} if base.config.tie_word_embeddings else set()
    return [name for name in parameter_names(build_empty(base.config)) if name not in quantized | tied]


def load_quantized(base: Base, parameters: Parameters, runtime: Runtime) -> CausalLM:
    """The model that the checkpoint will be; its layers own `parameters`, so training the model changes them."""
    model = build_empty(base.config)
    fill(model, base, rest_names(base, parameters), runtime, through=REST_DTYPE)
    swap_linears(model, parameters)
    return model
