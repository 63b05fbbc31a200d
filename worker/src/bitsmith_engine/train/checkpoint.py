"""What a run needs to go on as if nothing had happened, in a folder that is there completely or not at all.

    FOLDER/step-00000100/state.json             what is done, and the files with their sizes
                        /weights.safetensors    codes, scales, zero points, float parameters, the best weights so far
                        /rank-0.safetensors     that rank's optimizer state and random numbers

The newest complete one counts. It appears by rename, and only then the older ones go away, by a rename as well: whoever
copies one has it whole or notices. Rank 0 keeps what ranks on other machines have to go on from.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitsmith_engine.copies import Copies
from bitsmith_engine.data.examples import Example
from bitsmith_engine.folders import sync, take_over
from bitsmith_engine.runtime import Ranks, Runtime
from bitsmith_engine.train.step import Step

_STATE_FILE = "state.json"
_WEIGHTS_FILE = "weights.safetensors"
_NOTHING = -1

Tensors = Mapping[str, Tensor]

OnCheckpoint = Callable[[int, Path, Mapping[str, float]], None]
"""Hears how many steps are done, the checkpoint's folder, and what was measured then."""


class History(BaseModel):
    """What a run did so far."""

    model_config = ConfigDict(extra="forbid")

    steps: list[Step] = []
    rollbacks: int = 0
    best_loss: float | None = None  # on held-out examples; None before the first look
    best_step: int = 0  # how many steps had been done when it was seen
    looks_since_best: int = 0

    @property
    def done(self) -> int:
        return len(self.steps)


class Checkpoint(NamedTuple):
    history: History
    weights: Tensors  # equal on all ranks
    own: Tensors  # this rank's


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    ranks: int
    files: dict[str, int]  # bytes
    history: History


class Checkpoints:
    """The checkpoints of one run: those of another spec, plan or number of ranks are not seen.

    Args:
        run: what must be equal for a checkpoint to be continued from.
    """

    def __init__(
        self, folder: Path, run: str, ranks: Ranks, device: torch.device, *, copies: Copies | None = None
    ) -> None:
        self._folder = folder
        self._run = run
        self._ranks = ranks
        self._device = device
        self._copies = copies or Copies(ranks, folder)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Called by all ranks together; answers the folder."""
        target = self._folder / f"step-{checkpoint.history.done:08d}"
        part = self._folder / f".{target.name}"
        is_first = self._ranks.rank == 0
        if is_first:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        self._wait_for_all()
        part.mkdir(parents=True, exist_ok=True)  # where rank 0's is not seen
        _write(checkpoint.own, part / _own_file(self._ranks.rank))
        self._wait_for_all()
        for rank in range(self._ranks.size):
            self._copies.bring(part / _own_file(rank), source=rank)
        self._copies.drop(part)
        if is_first:
            _write(checkpoint.weights, part / _WEIGHTS_FILE)
            sizes = {path.name: path.stat().st_size for path in part.iterdir()}
            state = _State(run=self._run, ranks=self._ranks.size, files=sizes, history=checkpoint.history)
            (part / _STATE_FILE).write_text(state.model_dump_json())
            for path in [*part.iterdir(), part]:
                sync(path)
            take_over(part, target)
        self._wait_for_all()
        return target

    def load(self) -> Checkpoint | None:
        """The newest complete one, or None. Called by all ranks together."""
        newest = torch.tensor(self._newest() if self._ranks.rank == 0 else _NOTHING, device=self._device)
        self._ranks.broadcast_(newest)
        if newest.item() == _NOTHING:
            return None
        folder = self._folder / f"step-{int(newest):08d}"
        self._copies.spread(folder)
        state = _State.model_validate_json((folder / _STATE_FILE).read_bytes())
        found = Checkpoint(
            state.history, load_file(folder / _WEIGHTS_FILE), load_file(folder / _own_file(self._ranks.rank))
        )
        self._copies.drop(folder)
        return found

    def _newest(self) -> int:
        complete = [folder for folder in self._folder.glob("step-*") if self._is_complete(folder)]
        return max((int(folder.name.removeprefix("step-")) for folder in complete), default=_NOTHING)

    def _is_complete(self, folder: Path) -> bool:
        try:
            state = _State.model_validate_json((folder / _STATE_FILE).read_bytes())
            sizes = {name: (folder / name).stat().st_size for name in state.files}
        except (OSError, ValidationError):
            return False
        return sizes == state.files and (state.run, state.ranks) == (self._run, self._ranks.size)

    def _wait_for_all(self) -> None:
        self._ranks.sum_(torch.zeros(1, device=self._device))


def identity(
    settings: Mapping[str, Any],
    plan: Sequence[Sequence[int]],
    others: Sequence[object],
    *data: Sequence[Example],
) -> str:
    """What must be equal for a checkpoint to be continued from."""
    parts = [settings, list(map(list, plan)), others, [_digest_of(examples) for examples in data]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def random_state(runtime: Runtime) -> dict[str, Tensor]:
    state = {"random.cpu": torch.get_rng_state()}
    if runtime.device.type == "cuda":
        state["random.cuda"] = torch.cuda.get_rng_state(runtime.device)
    return state


def set_random_state(state: Tensors, runtime: Runtime) -> None:
    torch.set_rng_state(state["random.cpu"])
    if "random.cuda" in state:
        torch.cuda.set_rng_state(state["random.cuda"], runtime.device)


def _digest_of(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.ids, example.learned]).encode())
    return digest.hexdigest()


def _own_file(rank: int) -> str:
    return f"rank-{rank}.safetensors"


def _write(tensors: Tensors, path: Path) -> None:
    save_file({name: _whole(tensor.detach().cpu()) for name, tensor in tensors.items()}, path)


def _whole(tensor: Tensor) -> Tensor:
    """safetensors refuses parts of a storage; what is whole already is not copied, for it may be large."""
    is_whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if is_whole else tensor.clone(memory_format=torch.contiguous_format)
