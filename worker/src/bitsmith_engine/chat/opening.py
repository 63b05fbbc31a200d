"""A bundle, opened for answering: the native checkpoint with its codes packed, or the merged weights of an adapter.

Nothing but the bundle is needed: its config.json, tokenizer and float weights are the base's.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from bitsmith_engine.chat.packed import keep_while_room, pack_linears
from bitsmith_engine.data.examples import Tokenizer, render
from bitsmith_engine.errors import BadData, BadModel, OutOfSpace
from bitsmith_engine.models.opening import Base, CausalLM, build_empty, fill, open_base, parameter_names
from bitsmith_engine.nn.assembly import REST_DTYPE
from bitsmith_engine.quant.storage import LAYOUT_FILE, Layout, read_layout
from bitsmith_engine.runtime import Runtime

MODEL_FILE = "model.safetensors"
MERGED = "bf16"
_PROBE = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel:
    model: CausalLM
    tokenizer: Tokenizer
    runtime: Runtime
    stop_ids: frozenset[int]  # the model ends its turn with one of these
    context_tokens: int
    packed_bytes: int
    memory_bytes: int  # weights, and the caches of `parallel` answers
    load_s: float


def open_chat(
    folder: Path, runtime: Runtime, *, context_tokens: int, parallel: int, memory_bytes: int | None
) -> ChatModel:
    """
    Args:
        context_tokens: prompt and answer together, at most; never more than the model knows positions for.
        parallel: how many answers will be written at once.
        memory_bytes: what weights and caches may take; unpacked weights are kept in what is left. None: no limit.

    Raises:
        BadModel: there is nothing to chat with, or it is damaged.
        OutOfSpace: it does not fit.
    """
    started = time.monotonic()
    is_packed = (folder / LAYOUT_FILE).is_file()
    base = open_base(folder if is_packed or not (folder / MERGED).is_dir() else folder / MERGED)
    layout = read_layout(folder) if is_packed else Layout(layers=[])
    context = min(context_tokens, int(getattr(base.config, "max_position_embeddings", context_tokens)))
    cache_bytes = parallel * context * _cache_bytes_per_token(base, runtime)

    model = build_empty(base.config)
    packed_layers = {block.layer_name for block in layout.layers}
    packed_bytes = sum(block.packed_bytes for block in layout.layers)
    held_bytes = packed_bytes + _float_bytes(model, base, packed_layers, runtime)
    if memory_bytes is not None and held_bytes + cache_bytes > memory_bytes:
        raise OutOfSpace(
            f"the model needs {held_bytes} bytes for its weights and {cache_bytes} for {parallel} answers of {context} "
            f"tokens, and may take {memory_bytes}; allow more memory, or a shorter context"
        )
    floats = [name for name in parameter_names(model) if name.removesuffix(".weight") not in packed_layers]
    fill(model, base, floats, runtime, through=REST_DTYPE)
    layers = []
    if is_packed:
        layers = pack_linears(model, layout, folder / MODEL_FILE, runtime.device, runtime.compute_dtype)
    room = sum(layer.unpacked_bytes for layer in layers)
    if memory_bytes is not None:
        room = memory_bytes - held_bytes - cache_bytes
    kept_bytes = keep_while_room(layers, room)
    return ChatModel(
        model=model,
        tokenizer=base.tokenizer,
        runtime=runtime,
        stop_ids=stop_ids(base),
        context_tokens=context,
        packed_bytes=packed_bytes,
        memory_bytes=held_bytes + kept_bytes + cache_bytes,
        load_s=time.monotonic() - started,
    )


def stop_ids(base: Base) -> frozenset[int]:
    """What the configuration and the tokenizer call the end, and what the chat template ends an answer with.

    Raises:
        BadModel: the vocabulary knows no end, so no answer would ever have one.
    """
    declared = base.config.eos_token_id
    found = set(declared) if isinstance(declared, list) else {declared}
    found |= {base.tokenizer.eos_token_id, _end_of_turn(base.tokenizer)}
    known = frozenset(int(token) for token in found if token is not None)
    if not known:
        raise BadModel("neither config.json nor the tokenizer names a token that ends an answer (eos_token_id)")
    return known


@dataclass(frozen=True, slots=True)
class _Said:
    role: str
    content: str


def _end_of_turn(tokenizer: Tokenizer) -> int | None:
    """The special token right after an answer, if the template puts one there."""
    try:
        whole = render([_Said("user", _PROBE), _Said("assistant", _PROBE)], tokenizer, open_answer=False)
    except BadData:
        return None
    ids: list[int] = tokenizer(whole.rpartition(_PROBE)[2], add_special_tokens=False)["input_ids"]
    return ids[0] if ids and ids[0] in tokenizer.all_special_ids else None


def _float_bytes(model: CausalLM, base: Base, packed_layers: set[str], runtime: Runtime) -> int:
    tied = {"lm_head.weight"} if base.config.tie_word_embeddings else set[str]()
    names = [n for n in parameter_names(model) if n not in tied and n.removesuffix(".weight") not in packed_layers]
    return int(sum(model.get_parameter(name).numel() for name in names)) * runtime.compute_dtype.itemsize


def _cache_bytes_per_token(base: Base, runtime: Runtime) -> int:
    """Keys and values of every layer."""
    config = base.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads or config.num_attention_heads
    values = 2 * int(config.num_hidden_layers) * int(heads) * int(head_size)
    return values * runtime.compute_dtype.itemsize
