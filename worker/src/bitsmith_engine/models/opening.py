"""A base model from INPUTS/model: configuration and tokenizer at once, weights when asked for."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from bitsmith_engine.errors import BadModel
from bitsmith_engine.models.architecture import check_supported
from bitsmith_engine.models.sources import GgufSource, SafetensorsSource, WeightSource
from bitsmith_engine.runtime import Runtime

CausalLM = Any
"""A transformers causal LM; its attributes are not typed beyond nn.Module's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    weights: WeightSource


def open_base(path: Path) -> Base:
    """Open a transformers folder, a .gguf file, or a folder that holds one .gguf file. Reads no weights yet.

    Raises:
        BadModel: unreadable, unsupported, pickled, or needing code of its own.
    """
    folder, gguf_file = _locate(path)
    if gguf_file is None:
        _refuse_remote_code(folder)
    try:
        config = AutoConfig.from_pretrained(folder, gguf_file=gguf_file, trust_remote_code=False)
        check_supported(config)
        weights = _open_weights(folder, gguf_file, config)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadModel(f"the base in {path.name} cannot be opened: {error}") from error
    return Base(config=config, tokenizer=tokenizer, weights=weights)


def build_empty(config: PretrainedConfig) -> CausalLM:
    """The model without memory for its weights: every parameter is on the meta device, and frozen."""
    with torch.device("meta"):
        model: CausalLM = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # transformers types it not
            config, attn_implementation="sdpa", dtype=torch.float32
        )
    # Buffers of the rotary embedding are computed when it is made and stored nowhere.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    return model.requires_grad_(False).eval()


def fill(
    model: CausalLM, base: Base, names: Iterable[str], runtime: Runtime, *, through: torch.dtype | None = None
) -> None:
    """Put these parameters of the base into the model, on the runtime's device and in its precision.

    Args:
        through: round to this type first, so that the model computes with what a file of that type will hold.
    """
    available = base.weights.names()
    for name in names:
        if name == "lm_head.weight" and base.config.tie_word_embeddings:
            continue
        if name not in available:
            raise BadModel(f"the base's weights lack {name}; fetch the base again")
        tensor = base.weights.get(name)
        expected = model.get_parameter(name).shape
        if tensor.shape != expected:
            raise BadModel(f"{name} has the shape {tuple(tensor.shape)}, the configuration says {tuple(expected)}")
        put(model, name, (tensor if through is None else tensor.to(through)).to(runtime.device, runtime.compute_dtype))
    if base.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary_emb.to(runtime.device)


def load_float(base: Base, runtime: Runtime) -> CausalLM:
    """The base as it is, every weight in the precision of the computation."""
    model = build_empty(base.config)
    fill(model, base, parameter_names(model), runtime)
    return model


def parameter_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


def put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))


def _locate(path: Path) -> tuple[Path, str | None]:
    if path.is_file():
        if path.suffix != ".gguf":
            raise BadModel(f"{path.name} is neither a folder nor a .gguf file")
        return path.parent, path.name
    if not path.is_dir():
        raise BadModel(f"there is no base model at {path.name}")
    if (path / "config.json").is_file():
        return path, None
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return path, files[0].name
    raise BadModel(f"{path.name} holds no config.json and {len(files)} .gguf files; expected one or the other")


def _refuse_remote_code(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file() and "auto_map" in json.loads(file.read_text()):
            raise BadModel(f"the base's {name} asks for code of its own (auto_map), which this engine never runs")


def _open_weights(folder: Path, gguf_file: str | None, config: PretrainedConfig) -> WeightSource:
    if gguf_file is None:
        return SafetensorsSource(folder)
    return GgufSource(folder / gguf_file, config, parameter_names(build_empty(config)))
