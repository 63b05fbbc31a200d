"""Which architectures the engine knows, and which of their linear layers form a unit of one width."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from bitsmith_engine.errors import BadModel

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
"""transformers' model_type values: pre-norm decoders with separate q/k/v and gate/up and ordinary attention."""

# Inference engines fuse q/k/v and gate/up into one matrix each, so these share a width.
_UNITS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    name: str  # "3.qkv"
    depth: int  # index of the decoder layer
    layers: tuple[str, ...]  # module paths in the causal LM


def check_supported(config: PretrainedConfig) -> None:
    """Raises BadModel naming what is supported."""
    if config.model_type not in SUPPORTED:
        raise BadModel(
            f"the base is a {config.model_type} model; this engine supports {', '.join(SUPPORTED)}. "
            "Choose a base of one of these architectures"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise BadModel(
            "the base is already quantized (its config.json has a quantization_config); use its 16-bit version"
        )
    kinds: set[Any] = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise BadModel(f"the base has layers of the kinds {sorted(kinds)}; only full_attention is supported")


def units(config: PretrainedConfig) -> Iterator[Unit]:
    """In the order of computation."""
    for depth in range(config.num_hidden_layers):
        for name, members in _UNITS.items():
            layers = tuple(f"model.layers.{depth}.{member}" for member in members)
            yield Unit(name=f"{depth}.{name}", depth=depth, layers=layers)
