"""One optimizer step's forward and backward passes, on one rank's share of the batch.

The loss is the mean over all learned tokens of the batch, however ranks and micro-batches split it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitsmith_engine.data.batching import Batch, by_length, collate
from bitsmith_engine.data.examples import Example
from bitsmith_engine.data.packing import balanced, pack
from bitsmith_engine.models.forward import Places, hidden_at, summed_loss
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.runtime import Ranks, Runtime

_HELD_OUT_TOKENS = 2048  # per pass without gradients


class Step(NamedTuple):
    loss: float  # nats per learned token, of all ranks
    learned: int  # tokens with a loss
    read: int  # tokens in all, padding not counted
    total_flips: int = 0  # up to and with this step


class Layout(NamedTuple):
    """How examples become rows."""

    packing: bool
    micro_batch_size: int  # examples


def run_step(
    model: Any,
    optimizer: DiodeMix,
    number: int,
    chosen: Sequence[Example],
    layout: Layout,
    runtime: Runtime,
    ranks: Ranks,
) -> Step:
    """Hand the batch's gradient to the optimizer, whose finish() is the update.

    All ranks return the same step. If its loss is not finite, the gradient is not one to be used.
    """
    learned = sum(sum(example.learned[1:]) for example in chosen)
    parts = _parts(chosen, layout, ranks)
    optimizer.start(number)

    loss = 0.0
    for at, (examples, weight) in enumerate(parts, start=1):
        part_loss = batch_loss(model, _rows(examples, layout, runtime)) * (weight / learned)
        loss += part_loss.item()
        if at == len(parts):
            loss = _sum_over_ranks(loss, ranks, runtime)
            if not math.isfinite(loss):
                break
        part_loss.backward()  # type: ignore[no-untyped-call]  # torch types it not
    return Step(loss, learned, sum(len(example.ids) for example in chosen), optimizer.total_flips)


@torch.no_grad()
def held_out_loss(model: Any, examples: Sequence[Example], layout: Layout, runtime: Runtime, ranks: Ranks) -> float:
    """Nats per learned token; the ranks share the work and agree on the result to the last bit."""
    mine = examples[ranks.rank :: ranks.size]
    totals_2 = torch.zeros(2, dtype=torch.float64, device=runtime.device)
    for indices in by_length([len(example.ids) for example in mine], _HELD_OUT_TOKENS):
        batch = _rows([mine[index] for index in indices], layout, runtime)
        totals_2[0] += batch_loss(model, batch)
        totals_2[1] += batch.num_learned
    ranks.sum_(totals_2)
    return (totals_2[0] / totals_2[1]).item()


def _parts(chosen: Sequence[Example], layout: Layout, ranks: Ranks) -> list[tuple[list[Example], float]]:
    """This rank's micro-batches, and what their losses count. All ranks have the same number of them."""
    longest_first = sorted(chosen, key=lambda example: -len(example.ids))
    most = layout.micro_batch_size
    count = math.ceil(math.ceil(len(chosen) / ranks.size) / most)
    mine = longest_first[ranks.rank :: ranks.size]
    if layout.packing:
        groups = balanced([len(example.ids) for example in mine], count, most)
        batches = [[mine[index] for index in group] for group in groups]
    else:
        batches = [mine[start : start + most] for start in range(0, count * most, most)]
    # A rank without examples still takes part in every sum over the ranks, with a gradient of zero.
    return [(batch, 1.0) if batch else (longest_first[-1:], 0.0) for batch in batches]


def _rows(examples: Sequence[Example], layout: Layout, runtime: Runtime) -> Batch:
    return pack(examples, runtime.device) if layout.packing else collate(examples, runtime.device)


def batch_loss(model: Any, batch: Batch) -> Tensor:
    """The sum over the batch's learned tokens. The model's head is frozen."""
    places = Places(batch.row_A, batch.column_A, batch.target_A)
    hidden_AH = hidden_at(model, batch.tokens_BT, places, documents=batch.documents)
    return summed_loss(model, hidden_AH, batch.target_A)


def losses_at_ends(steps: Sequence[Step]) -> tuple[float, float]:
    """Mean losses of the first and of the last tenth of a run: one batch's says little."""
    tenth = max(1, len(steps) // 10)
    return _mean_loss(steps[:tenth]), _mean_loss(steps[-tenth:])


def _mean_loss(steps: Sequence[Step]) -> float:
    return sum(step.loss * step.learned for step in steps) / sum(step.learned for step in steps)


def _sum_over_ranks(value: float, ranks: Ranks, runtime: Runtime) -> float:
    total = torch.tensor(value, dtype=torch.float64, device=runtime.device)
    ranks.sum_(total)
    return total.item()
