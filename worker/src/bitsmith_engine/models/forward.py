"""Passes through a causal LM that compute logits only where somebody looks.

Examples may share a row as documents, one after another without padding. Attention then runs on each document by itself
(positions start at 0 in each), so that a row's attention costs the sum of its documents' squares, not the square of the
sum, and no mask of row x row is ever made:

    row        a a a | b b | c c c c        position  0 1 2 | 0 1 | 0 1 2 3

Shape letters: B rows, T tokens per row, A places whose logits are wanted, V vocabulary, H hidden features.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_CHUNK_LOGITS = 1 << 25  # at once: 128 MB of float32
_DOCUMENT_ATTENTION = "bitsmith_documents"  # its name in transformers' registry


LossOfLogits = Callable[[Tensor, slice], Tensor]
"""The sum of a loss over some places: their logits (A, V), and which of all places they are."""


class Places(NamedTuple):
    """Predictions to look at: having read (row, column), how likely is `target`?"""

    row_A: Tensor
    column_A: Tensor
    target_A: Tensor

    def to(self, device: torch.device) -> "Places":
        return Places(*(tensor.to(device) for tensor in self))


def hidden_at(
    model: Any,
    tokens_BT: Tensor,
    places: Places,
    *,
    mask_B1TT: Tensor | None = None,
    position_BT: Tensor | None = None,
    documents: Sequence[int] | None = None,
) -> Tensor:
    """Final hidden states (A, H) at the places.

    Without a mask attention is causal. Rows may be padded on the right: nothing before the padding sees it.

    Args:
        documents: lengths of the documents that fill the one row; only inside separate_documents(model).
    """
    extra = {}
    if documents is not None:
        extra["document_lengths"] = tuple(documents)
        position_BT = torch.cat([torch.arange(length, device=tokens_BT.device) for length in documents]).unsqueeze(0)
    output = model.model(
        input_ids=tokens_BT, attention_mask=mask_B1TT, position_ids=position_BT, use_cache=False, **extra
    )
    hidden: Tensor = output.last_hidden_state[places.row_A, places.column_A]
    return hidden


@contextmanager
def separate_documents(model: Any) -> Iterator[None]:
    """While open, the model understands hidden_at's `documents`; backward passes must end in it too."""
    AttentionInterface.register(_DOCUMENT_ATTENTION, _document_attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(_DOCUMENT_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def recomputed_layers(model: Any) -> Iterator[None]:
    """While open, each decoder layer keeps its input only, and its backward pass computes the layer again."""
    layers = list(model.model.layers)
    for layer in layers:
        # Nothing in the layers is random: they are in evaluation mode.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def token_losses(model: Any, hidden_AH: Tensor, target_A: Tensor) -> Tensor:
    """-log p(target) in nats, float32 (A,), without ever holding all logits when no gradient is wanted."""
    losses = [
        F.cross_entropy(model.lm_head(hidden_AH[here]).float(), target_A[here], reduction="none")
        for here in _chunks(len(target_A), _places_at_once(model.lm_head))
    ]
    return torch.cat(losses)


def summed_loss(model: Any, hidden_AH: Tensor, target_A: Tensor, *, places_at_once: int | None = None) -> Tensor:
    """The sum of token_losses, as summed_over_places computes it."""

    def loss(logits_AV: Tensor, here: slice) -> Tensor:
        return F.cross_entropy(logits_AV.float(), target_A[here], reduction="sum")

    return summed_over_places(model.lm_head, hidden_AH, loss, places_at_once=places_at_once)


def summed_over_places(
    head: nn.Linear, hidden_AH: Tensor, loss: LossOfLogits, *, places_at_once: int | None = None
) -> Tensor:
    """A loss summed over all places, differentiable in hidden_AH, without ever holding all logits. The head is frozen.

    The gradient with respect to the hidden states is computed with the loss, chunk by chunk; backward only scales it.
    """
    step = places_at_once or _places_at_once(head)
    total: Tensor = _SummedOverPlaces.apply(hidden_AH, head, loss, step)  # type: ignore[no-untyped-call]  # torch
    return total


class _SummedOverPlaces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_AH: Tensor, head: nn.Linear, loss_of: LossOfLogits, step: int) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        grad_AH = torch.empty_like(hidden_AH) if wants_gradient else None
        total = torch.zeros((), dtype=torch.float64, device=hidden_AH.device)
        for here in _chunks(len(hidden_AH), step):
            with torch.set_grad_enabled(wants_gradient):
                chunk_AH = hidden_AH[here].detach().requires_grad_(wants_gradient)
                loss = loss_of(head(chunk_AH), here)
            total += loss.detach()
            if grad_AH is not None:
                (grad_AH[here],) = torch.autograd.grad(loss, chunk_AH)
        if grad_AH is not None:
            ctx.save_for_backward(grad_AH)
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_AH,) = ctx.saved_tensors
        return grad_AH * grads[0], None, None, None


def _places_at_once(head: nn.Linear) -> int:
    return max(1, _CHUNK_LOGITS // head.out_features)


def _chunks(places: int, step: int) -> Iterator[slice]:
    for start in range(0, places, step):
        yield slice(start, min(start + step, places))


def _document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    document_lengths: tuple[int, ...] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' sdpa attention, document by document."""
    lengths = document_lengths or (query.shape[2],)
    parts = []
    for q, k, v in zip(*(torch.split(states, list(lengths), dim=2) for states in (query, key, value)), strict=True):
        mask = _window_mask(q, sliding_window) if attention_mask is None else attention_mask
        parts.append(sdpa_attention_forward(module, q, k, v, mask, **options)[0])
    return torch.cat(parts, dim=1), None


def _window_mask(query: Tensor, window: int | None) -> Tensor | None:
    """None where a window hides nothing: plain causal attention is faster without a mask."""
    T = query.shape[2]
    if window is None or window >= T:
        return None
    is_seen_TT = torch.ones(T, T, dtype=torch.bool, device=query.device)
    return is_seen_TT.tril().triu(1 - window).view(1, 1, T, T)
