"""What the machines of one run have of rank 0's OUT: those that do not see its folder get copies of what they read.

Files go through the processes' own network, from rank 0 to all, and back to rank 0 where it keeps what others wrote.
Every method must be called by all ranks, in one order, with the same place below each one's OUT.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from bitsmith_engine.errors import BadModel
from bitsmith_engine.runtime import Ranks

_CHUNK = 2**26  # bytes
_PIECES, _PIECE = 64, 2**16  # of each file of a model, evenly spaced; bytes


class Copies:
    def __init__(self, ranks: Ranks, out: Path) -> None:
        self._ranks = ranks
        self._keepers = _keepers(ranks, out)

    @property
    def are_needed(self) -> bool:
        """Whether a rank has a folder of its own for OUT."""
        return any(self._keepers)

    def spread(self, folder: Path) -> None:
        """Make everybody's folder the one that rank 0 has."""
        if not self.are_needed:
            return
        listed = json.dumps(list(_files(folder)) if self._ranks.rank == 0 else []).encode()
        files = json.loads(bytes(self._bytes(listed, 0).tolist()))
        if self._keeps:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for name, size in files:
            self._move(folder / name, size, source=0, is_written=self._keeps)
        self._wait_for_all()

    def bring(self, path: Path, *, source: int) -> None:
        """Let rank 0 have the file that another rank wrote."""
        if not self._keepers[source]:
            return
        size = torch.tensor([path.stat().st_size if self._ranks.rank == source else 0])
        self._ranks.broadcast_(size, source)
        self._move(path, int(size), source=source, is_written=self._ranks.rank == 0)

    def drop(self, folder: Path) -> None:
        """Nobody reads the copies any more."""
        if self.are_needed:
            self._wait_for_all()
            if self._keeps:
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def _keeps(self) -> bool:
        """Whether this rank writes for all that see its folder, and rank 0 does not."""
        return self._keepers[self._ranks.rank] == self._ranks.rank != 0

    def _move(self, path: Path, size: int, *, source: int, is_written: bool) -> None:
        if is_written:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        for start in range(0, size, _CHUNK):
            length = min(_CHUNK, size - start)
            chunk = torch.empty(length, dtype=torch.uint8)
            if self._ranks.rank == source:
                with path.open("rb") as file:
                    file.seek(start)
                    chunk = torch.frombuffer(bytearray(file.read(length)), dtype=torch.uint8)
            self._ranks.broadcast_(chunk, source)
            if is_written:
                with path.open("ab") as file:
                    file.write(chunk.numpy().data)

    def _bytes(self, mine: bytes, source: int) -> Tensor:
        """Those of one rank, for all."""
        length = torch.tensor([len(mine)])
        self._ranks.broadcast_(length, source)
        if self._ranks.rank == source:
            found = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        else:
            found = torch.empty(int(length), dtype=torch.uint8)
        self._ranks.broadcast_(found, source)
        return found

    def _wait_for_all(self) -> None:
        self._ranks.sum_(torch.zeros(1))


def check_equal_models(ranks: Ranks, model: Path) -> None:
    """
    Raises:
        BadModel: the machines of this run have different files under the model's name.
    """
    mine = torch.frombuffer(bytearray(_fingerprint(model)), dtype=torch.uint8)
    different = [rank for rank, theirs in enumerate(ranks.gather(mine)) if not torch.equal(theirs, mine)]
    if different:
        raise BadModel(
            f"rank {ranks.rank} and rank {different[0]} of this run have different files of the base model; name a "
            "revision of it, or put the same files on every node"
        )


def _keepers(ranks: Ranks, out: Path) -> list[int]:
    """Of each rank, the first that sees its folder."""
    if ranks.size == 1:
        return [0]
    number = torch.tensor([secrets.randbits(62)])
    ranks.broadcast_(number)
    probe = out / f".ranks-{int(number):x}"
    probe.mkdir(parents=True, exist_ok=True)
    (probe / str(ranks.rank)).touch()
    ranks.sum_(torch.zeros(1))
    first = next(rank for rank in range(ranks.size) if (probe / str(rank)).exists())
    keepers = [int(keeper) for keeper in ranks.gather(torch.tensor([first]))]
    if first == ranks.rank:
        shutil.rmtree(probe, ignore_errors=True)
    return keepers


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.stat().st_size


def _fingerprint(folder: Path) -> bytes:
    """Of names, sizes and pieces of the files: whole models are too large to be read for a comparison."""
    digest = hashlib.sha256()
    for name, size in _files(folder):
        digest.update(f"{name} {size}\n".encode())
        with (folder / name).open("rb") as file:
            for piece in range(_PIECES):
                file.seek(size * piece // _PIECES)
                digest.update(file.read(_PIECE))
    return digest.digest()
