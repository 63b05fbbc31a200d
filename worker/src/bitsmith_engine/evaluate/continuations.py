"""How likely is this continuation after this context? Token ids in, log-likelihoods out.

    log p(c | x) = sum over i of log p(c_i | x, c_1 .. c_{i-1})

Continuations that need the same inputs (all answers of one token after one prompt do) share a row, and logits are only
computed where a continuation is predicted.

Shape letters: B rows, T tokens per row, A predicted tokens, H hidden features, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bitsmith_engine.data.batching import by_length
from bitsmith_engine.errors import BadData, Diverged
from bitsmith_engine.evaluate.perplexity import BATCH_TOKENS
from bitsmith_engine.models.forward import Places, hidden_at
from bitsmith_engine.runtime import Runtime

_CHUNK_LOGITS = 1 << 25  # at once: 128 MB of float32


class Continuation(NamedTuple):
    context: tuple[int, ...]  # at least one token
    target: tuple[int, ...]


class Likelihood(NamedTuple):
    log_likelihood: float  # nats
    is_greedy: bool  # every token of it is the likeliest one


@torch.no_grad()
def likelihoods(
    model: Any, continuations: Sequence[Continuation], runtime: Runtime, *, max_length: int
) -> Iterator[dict[int, Likelihood]]:
    """Likelihoods by position in `continuations`, batch by batch.

    Args:
        max_length: tokens a row may have; a longer one loses its beginning.

    Raises:
        BadData: a continuation has no token, or more than a row may have.
        Diverged: a likelihood is NaN or infinite.
    """
    row_of: dict[tuple[int, ...], list[int]] = {}
    for index, continuation in enumerate(continuations):
        row_of.setdefault(_inputs(continuation, max_length), []).append(index)
    rows = list(row_of)
    for batch in by_length([len(row) for row in rows], BATCH_TOKENS):
        chosen = [rows[index] for index in batch]
        yield _score(chosen, [row_of[row] for row in chosen], continuations, model, runtime)


def _inputs(continuation: Continuation, max_length: int) -> tuple[int, ...]:
    """What is read: the last token is only ever predicted."""
    if not 0 < len(continuation.target) <= max_length:
        raise BadData(
            f"an answer of {len(continuation.target)} tokens cannot be scored: the base's tokenizer gives it none, or "
            f"more than the {max_length} that the base can read"
        )
    return (continuation.context + continuation.target)[-(max_length + 1) : -1]


def _score(
    rows: Sequence[tuple[int, ...]],
    owners: Sequence[Sequence[int]],
    continuations: Sequence[Continuation],
    model: Any,
    runtime: Runtime,
) -> dict[int, Likelihood]:
    tokens_BT = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    places: list[tuple[int, int, int]] = []
    lengths: dict[int, int] = {}
    for row, (ids, indices) in enumerate(zip(rows, owners, strict=True)):
        tokens_BT[row, : len(ids)] = torch.tensor(ids)
        for index in indices:
            target = continuations[index].target
            lengths[index] = len(target)
            places += [(row, len(ids) - len(target) + offset, token) for offset, token in enumerate(target)]

    columns = torch.tensor(places).T
    at = Places(columns[0], columns[1], columns[2]).to(runtime.device)
    hidden_AH = hidden_at(model, tokens_BT.to(runtime.device), at)
    gain_A, is_top_A = _look_up(model.lm_head, hidden_AH, at.target_A)
    if not bool(gain_A.isfinite().all()):
        raise Diverged("the model gives an answer no finite likelihood: its weights or activations overflowed")
    gains = torch.split(gain_A.cpu(), list(lengths.values()))
    tops = torch.split(is_top_A.cpu(), list(lengths.values()))
    return {
        index: Likelihood(gain.double().sum().item(), bool(top.all()))
        for index, gain, top in zip(lengths, gains, tops, strict=True)
    }


def _look_up(head: Any, hidden_AH: Tensor, target_A: Tensor) -> tuple[Tensor, Tensor]:
    """(log p(target) in float32, whether it is the likeliest token), without ever holding all logits."""
    step = max(1, _CHUNK_LOGITS // head.out_features)
    gains, tops = [], []
    for start in range(0, len(target_A), step):
        logits_AV = head(hidden_AH[start : start + step]).float()
        here_A = target_A[start : start + step]
        gains.append(-F.cross_entropy(logits_AV, here_A, reduction="none"))
        tops.append(logits_AV.argmax(-1) == here_A)
    return torch.cat(gains), torch.cat(tops)
