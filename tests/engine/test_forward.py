"""What the passes promise: the loss and gradients of the plain computation, in less memory."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bitsmith_engine.data.batching import collate
from bitsmith_engine.models.forward import Places, hidden_at, recomputed_layers, summed_loss, token_losses
from bitsmith_engine.nn.swap import attach_sink
from torch import Tensor, nn
from torch.nn import functional as F
from toy_sink import Recorder
from toy_training import CPU, toy


class Head(nn.Linear):
    """Remembers how many logits it was asked for at once."""

    def __init__(self) -> None:
        super().__init__(16, 50, bias=False)
        self.largest = 0
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x))
        return super().forward(x)


@pytest.mark.parametrize("places_at_once", [1, 7, 23, 100, None])
def test_the_chunked_loss_and_its_gradient_are_those_of_cross_entropy(places_at_once: int | None) -> None:
    torch.manual_seed(0)
    model = SimpleNamespace(lm_head=Head())
    hidden_AH = (3 * torch.randn(23, 16)).requires_grad_()
    target_A = torch.randint(50, (23,))

    loss = summed_loss(model, hidden_AH, target_A, places_at_once=places_at_once)
    (0.25 * loss).backward()  # type: ignore[no-untyped-call]  # torch types it not
    found, hidden_AH.grad = hidden_AH.grad, None
    expected = F.cross_entropy(model.lm_head(hidden_AH), target_A, reduction="sum")
    (0.25 * expected).backward()  # type: ignore[no-untyped-call]

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, hidden_AH.grad)
    torch.testing.assert_close(token_losses(model, hidden_AH, target_A).sum(), expected)


def test_no_more_logits_exist_at_once_than_a_chunk_has() -> None:
    model = SimpleNamespace(lm_head=Head())
    hidden_AH = torch.randn(23, 16, requires_grad=True)
    loss = summed_loss(model, hidden_AH, torch.zeros(23, dtype=torch.long), places_at_once=4)
    loss.backward()  # type: ignore[no-untyped-call]  # torch types it not
    assert model.lm_head.largest == 4


def test_a_loss_without_gradient_needs_none() -> None:
    model = SimpleNamespace(lm_head=Head())
    loss = summed_loss(model, torch.randn(5, 16), torch.zeros(5, dtype=torch.long))
    assert not loss.requires_grad


@contextmanager
def counted_bytes(total: list[int]) -> Iterator[None]:
    """Of everything kept for the backward pass."""

    def keep(tensor: Tensor) -> Tensor:
        total[0] += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def test_recomputed_layers_give_each_gradient_once_and_keep_less(toy_inputs: Path) -> None:
    run = toy(toy_inputs)
    batch = collate(run.examples[:4], CPU.device)
    received: list[list[tuple[str, Tensor]]] = []
    kept: list[int] = []
    ways: list[AbstractContextManager[None]] = [nullcontext(), recomputed_layers(run.model)]
    for way in ways:
        recorder, total = Recorder(), [0]
        attach_sink(run.model, recorder)
        with way:
            with counted_bytes(total):
                hidden_AH = hidden_at(run.model, batch.tokens_BT, Places(batch.row_A, batch.column_A, batch.target_A))
                loss = summed_loss(run.model, hidden_AH, batch.target_A)
            loss.backward()  # type: ignore[no-untyped-call]  # torch types it not
        received.append(recorder.received)
        kept.append(total[0])

    plain, recomputed = received
    assert [name for name, _ in recomputed] == [name for name, _ in plain]
    assert len(plain) == len(run.parameters)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(plain, recomputed, strict=True))
    assert kept[1] < kept[0] / 4
    assert "forward" not in vars(run.model.model.layers[0])
