"""Passes through a causal LM that compute logits only where somebody looks.

Shape letters: B rows, T tokens per row, A places whose logits are wanted, V vocabulary, H hidden features.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK_PLACES = 512  # logits of this many places at once: 100 MB of float32 at a vocabulary of 49 152


class Places(NamedTuple):
    """Predictions to look at: having read (row, column), how likely is `target`?"""

    row_A: Tensor
    column_A: Tensor
    target_A: Tensor

    def to(self, device: torch.device) -> "Places":
        return Places(*(tensor.to(device) for tensor in self))


def hidden_at(
    model: Any, tokens_BT: Tensor, places: Places, *, mask_B1TT: Tensor | None = None, position_BT: Tensor | None = None
) -> Tensor:
    """Final hidden states (A, H) at the places.

    Without a mask attention is causal. Rows may be padded on the right: nothing before the padding sees it.
    """
    output = model.model(input_ids=tokens_BT, attention_mask=mask_B1TT, position_ids=position_BT, use_cache=False)
    hidden: Tensor = output.last_hidden_state[places.row_A, places.column_A]
    return hidden


def token_losses(model: Any, hidden_AH: Tensor, target_A: Tensor) -> Tensor:
    """-log p(target) in nats, float32 (A,), without ever holding all logits when no gradient is wanted."""
    losses = []
    for start in range(0, len(target_A), _CHUNK_PLACES):
        here = slice(start, start + _CHUNK_PLACES)
        losses.append(F.cross_entropy(model.lm_head(hidden_AH[here]).float(), target_A[here], reduction="none"))
    return torch.cat(losses)
