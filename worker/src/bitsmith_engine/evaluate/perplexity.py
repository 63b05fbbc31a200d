"""Perplexity of the answers.

    value  = exp(m),   m = sum of nll / sum of tokens       over all learned tokens of the examples
    stderr = value * sqrt( n / (n - 1) * sum_i (nll_i - m * tokens_i)^2 ) / sum of tokens

The standard error is that of a ratio whose n clusters are the examples (tokens of one answer are not independent),
carried through exp by the delta method. Source: Cochran 1977, Sampling Techniques, section 6.3.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from bitsmith_core.bundle import AnswerLoss

from bitsmith_engine.data.batching import by_length, collate
from bitsmith_engine.data.examples import Example
from bitsmith_engine.errors import Diverged
from bitsmith_engine.models.forward import Places, hidden_at, token_losses
from bitsmith_engine.runtime import Runtime

BATCH_TOKENS = 2048  # padded; enough to keep the cores busy, small enough for a small machine


@torch.no_grad()
def answer_losses(model: Any, examples: Sequence[Example], runtime: Runtime) -> Iterator[dict[int, AnswerLoss]]:
    """Losses by position in `examples`, batch by batch.

    Raises:
        Diverged: a loss is NaN or infinite.
    """
    for indices in by_length([len(example.ids) for example in examples], BATCH_TOKENS):
        batch = collate([examples[index] for index in indices], runtime.device)
        hidden_AH = hidden_at(model, batch.tokens_BT, Places(batch.row_A, batch.column_A, batch.target_A))
        losses_A = token_losses(model, hidden_AH, batch.target_A).double()
        if not bool(losses_A.isfinite().all()):
            raise Diverged("the model gives an answer no finite likelihood: its weights or activations overflowed")
        rows = [losses_A[batch.row_A == row] for row in range(len(indices))]
        yield {
            index: AnswerLoss(nll=row.sum().item(), tokens=len(row)) for index, row in zip(indices, rows, strict=True)
        }


def perplexity(losses: Sequence[AnswerLoss]) -> tuple[float, float | None]:
    """(value, standard error); a mean loss above 700 nats counts as 700, near what exp of a float can hold."""
    tokens = sum(loss.tokens for loss in losses)
    mean = math.fsum(loss.nll for loss in losses) / tokens
    value = math.exp(min(mean, 700.0))
    n = len(losses)
    if n < 2:
        return value, None
    scatter = math.fsum((loss.nll - mean * loss.tokens) ** 2 for loss in losses)
    return value, value * math.sqrt(n / (n - 1) * scatter) / tokens
