"""What another machine goes on from in the middle of a calibration: its folder as it was, in links.

    FOLDER/checkpoint-00000012/...     the run's folder after layer or step 12; the newest counts

Every snapshot is whole: up to eight while layers are fitted, then one for each checkpoint of the training end to end.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from bitsmith_engine.folders import link_tree, take_over

_OF_ALL_LAYERS = 8

OnCheckpoint = Callable[[int, Path, Mapping[str, float]], None]
"""Hears how many layers and steps are done, the folder, and what was measured then."""


class Snapshots:
    """
    Args:
        folder: for snapshots; none of them lies in a run's own folder.
    """

    def __init__(self, folder: Path, on_checkpoint: OnCheckpoint) -> None:
        self._folder = folder
        self._on_checkpoint = on_checkpoint

    def restore(self, run: Path) -> None:
        """Fill the run's folder from the newest snapshot; one that is there has at least as much."""
        newest = max(self._folder.glob("checkpoint-*"), default=None)
        if newest is None or run.is_dir():
            return
        part = self._folder / ".restored"
        shutil.rmtree(part, ignore_errors=True)
        link_tree(newest, part)
        part.rename(run)

    def take(self, run: Path, done: int, metrics: Mapping[str, float]) -> None:
        """Everything in the run's folder now must be complete, and stay as it is until it is removed."""
        target = self._folder / f"checkpoint-{done:08d}"
        part = self._folder / ".part"
        shutil.rmtree(part, ignore_errors=True)
        link_tree(run, part)
        take_over(part, target)
        self._on_checkpoint(done, target, metrics)


def is_due(layers_done: int, num_layers: int) -> bool:
    return layers_done == num_layers or layers_done % math.ceil(num_layers / _OF_ALL_LAYERS) == 0
