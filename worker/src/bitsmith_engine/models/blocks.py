"""A base's float decoder with only the layers in memory that are being computed.

    hidden = embed(tokens);  at every depth: with layer(depth) as layer: hidden = run(layer, hidden);  head(hidden)

So a model larger than memory can be measured, quantized and distilled: what is held is the embedding, one decoder
layer, and the hidden states of the calibration windows.

Shape letters: B windows, T tokens per window, H hidden features, A places, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitsmith_engine.models.opening import Base, build_empty, fill, parameter_names
from bitsmith_engine.runtime import Runtime

DecoderLayer = Any
"""A transformers decoder layer; its call is not typed beyond nn.Module's."""


class Blocks:
    """Float weights come from the base's source when a layer is entered, and are dropped when it is left."""

    def __init__(self, base: Base, runtime: Runtime) -> None:
        self._base = base
        self._runtime = runtime
        self._skeleton = build_empty(base.config)
        outer = [name for name in parameter_names(self._skeleton) if not name.startswith("model.layers.")]
        fill(self._skeleton, base, outer, runtime)

    def __len__(self) -> int:
        return len(self._skeleton.model.layers)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        hidden_BTH: Tensor = self._skeleton.model.embed_tokens(tokens_BT)
        return hidden_BTH

    @contextmanager
    def layer(self, depth: int) -> Iterator[DecoderLayer]:
        """The decoder layer with its float weights; its parameters are named as below model.layers.<depth>."""
        layer = self._skeleton.model.layers[depth]
        empty = deepcopy(layer)
        prefix = f"model.layers.{depth}."
        fill(self._skeleton, self._base, [prefix + name for name, _ in layer.named_parameters()], self._runtime)
        yield layer
        # A caller may have put other modules into it: the next one to enter gets an untouched layer.
        self._skeleton.model.layers[depth] = empty

    def run(self, layer: DecoderLayer, hidden_BTH: Tensor) -> Tensor:
        """One decoder layer on windows without padding, or padded on the right: attention is causal."""
        position_1T = torch.arange(hidden_BTH.shape[1], device=hidden_BTH.device).unsqueeze(0)
        rotary = self._skeleton.model.rotary_emb(hidden_BTH, position_ids=position_1T)
        out_BTH: Tensor = layer(hidden_BTH, attention_mask=None, position_ids=position_1T, position_embeddings=rotary)
        return out_BTH

    def log_probabilities(self, hidden_AH: Tensor) -> Tensor:
        """float32 (A, V), from the output of the last layer at some places."""
        logits_AV = self._skeleton.lm_head(self._skeleton.model.norm(hidden_AH))
        return F.log_softmax(logits_AV.float(), dim=-1)

    def final_norm(self) -> nn.Module:
        norm: nn.Module = self._skeleton.model.norm
        return norm
