"""What the float model computes on the calibration windows, kept in files: hidden states, final distributions.

The float model runs once, layer by layer (models.blocks). Of its hidden states only those of the current depth exist,
as a file that memory maps, so windows need not fit into memory; of the final distribution each place keeps the k
largest log-probabilities, which tokens they belong to, and the logarithm of all that the others share:

    p_1 .. p_k,   p_rest = 1 - (p_1 + .. + p_k)

The divergence of a student from that, with its own k + 1 numbers, is at most the one of the full distributions and
zero where they are equal (data processing inequality: Cover and Thomas 2006, Elements of Information Theory, 2.8).

Shape letters: B windows, T tokens per window, H hidden features, A places, V vocabulary, k kept tokens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bitsmith_engine.calibrate.steps import pass_windows
from bitsmith_engine.models.blocks import Blocks, DecoderLayer
from bitsmith_engine.runtime import Runtime

_HEAD_PLACES = 512  # logits of this many places at once: 100 MB of float32 at a vocabulary of 49 152


class Stream:
    """Hidden states (B, T, H) of every window at one depth, in a file."""

    def __init__(self, path: Path, shape_BTH: tuple[int, int, int], runtime: Runtime) -> None:
        self._path = path
        self._runtime = runtime
        B, T, H = shape_BTH
        # shared=True makes the file where it is missing and writes through; the system keeps in memory what it can.
        flat = torch.from_file(str(path), shared=True, size=B * T * H, dtype=runtime.compute_dtype)
        self._hidden_BTH = flat.view(B, T, H)

    def __len__(self) -> int:
        return len(self._hidden_BTH)

    @property
    def shape(self) -> tuple[int, int, int]:
        B, T, H = self._hidden_BTH.shape
        return B, T, H

    def read(self, windows: Tensor | slice) -> Tensor:
        """On the runtime's device, and never a view of the file."""
        hidden_BTH = self._hidden_BTH[windows]
        return hidden_BTH.to(self._runtime.device, copy=isinstance(windows, slice))

    def write(self, windows: slice, hidden_BTH: Tensor) -> None:
        self._hidden_BTH[windows] = hidden_BTH.cpu()

    def passes(self) -> list[slice]:
        B, T, _ = self.shape
        return pass_windows(B, T)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


class Distribution(NamedTuple):
    """What is kept of the teacher's predictions; the first dimensions are those of the windows' tokens."""

    token: Tensor  # int32 (.., k)
    log_p: Tensor  # float32 (.., k), largest first
    log_rest: Tensor  # float32 (..)

    def at(self, windows: Tensor, device: torch.device) -> "Distribution":
        return Distribution(*(tensor[windows].to(device) for tensor in self))


@torch.no_grad()
def advance(blocks: Blocks, layer: DecoderLayer, source: Stream, target: Stream) -> None:
    """Run one layer over all windows."""
    for windows in source.passes():
        target.write(windows, blocks.run(layer, source.read(windows)))


def keep_top(log_p_AV: Tensor, top_k: int) -> Distribution:
    """The places' largest log-probabilities, and the logarithm of the mass of all others."""
    k = min(top_k, log_p_AV.shape[1] - 1)  # at least one token is "the others", so that log_rest is finite
    log_p_Ak, token_Ak = log_p_AV.topk(k, dim=-1)
    # Not log(1 - sum): where the model is sure, float32 has nothing left of the difference.
    log_rest_A = log_p_AV.scatter(1, token_Ak, -torch.inf).logsumexp(-1)
    return Distribution(token_Ak.int(), log_p_Ak, log_rest_A)


@torch.no_grad()
def distributions(blocks: Blocks, hidden_AH: Tensor, top_k: int) -> Iterator[Distribution]:
    """What is kept at the places of the last layer's output, some places at a time."""
    for part_AH in torch.split(hidden_AH, _HEAD_PLACES):
        yield keep_top(blocks.log_probabilities(part_AH), top_k)


@torch.no_grad()
def store_distribution(blocks: Blocks, last: Stream, top_k: int, folder: Path, vocabulary_size: int) -> None:
    """From the output of the last layer. 8 * k + 4 bytes a token; the files are whole only when this returned."""
    B, T, H = last.shape
    stored = open_distribution(folder, (B, T), top_k, vocabulary_size)
    for windows in last.passes():
        first = windows.start * T
        for kept in distributions(blocks, last.read(windows).view(-1, H), top_k):
            here = slice(first, first + len(kept.token))
            for whole, part in zip(stored, kept, strict=True):
                whole.view(B * T, *whole.shape[2:])[here] = part.cpu()
            first = here.stop


def open_distribution(folder: Path, shape_BT: tuple[int, int], top_k: int, vocabulary_size: int) -> Distribution:
    """The stored files, or new ones, memory mapped."""
    B, T = shape_BT
    k = min(top_k, vocabulary_size - 1)

    def mapped(name: str, size: int, dtype: torch.dtype) -> Tensor:
        return torch.from_file(str(folder / f"{name}.bin"), shared=True, size=size, dtype=dtype)

    return Distribution(
        mapped("top-tokens", B * T * k, torch.int32).view(B, T, k),
        mapped("top-log-p", B * T * k, torch.float32).view(B, T, k),
        mapped("rest-log-p", B * T, torch.float32).view(B, T),
    )
