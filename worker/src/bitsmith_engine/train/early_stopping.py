"""When to stop because held-out examples no longer get likelier, and which weights to keep then."""

import math
from collections.abc import Sequence

from bitsmith_core.spec import EarlyStopping
from torch import Tensor

from bitsmith_engine.data.examples import Example
from bitsmith_engine.ports import Observer
from bitsmith_engine.train.checkpoint import History
from bitsmith_engine.train.weights import Weights


class EarlyStop:
    """Does nothing without settings. `best` holds the best weights seen; the history says when and how good."""

    def __init__(
        self, settings: EarlyStopping | None, held_out: Sequence[Example], weights: Weights, observer: Observer
    ) -> None:
        if settings is not None and not held_out:
            observer.note("warn", "there are no held-out examples to look at, so training will not stop early")
        self._settings = settings if held_out else None
        self._weights = weights
        self._observer = observer
        self.examples = spread(held_out, 0 if settings is None else settings.examples)
        self.best: dict[str, Tensor] = {}

    def is_due(self, history: History, steps: int) -> bool:
        """Before the first step, every few steps, and after the last."""
        if self._settings is None:
            return False
        return history.done % self._settings.every_steps == 0 or history.done == steps

    def judge(self, loss: float, history: History) -> None:
        if math.isfinite(loss) and (history.best_loss is None or loss < history.best_loss):
            history.best_loss, history.best_step, history.looks_since_best = loss, history.done, 0
            self.best = self._weights.copy()
        else:
            history.looks_since_best += 1

    def is_over(self, history: History) -> bool:
        return self._settings is not None and history.looks_since_best >= self._settings.patience

    def restore_best(self, history: History) -> None:
        if self._settings is None or history.best_loss is None or history.best_step == history.done:
            return
        self._weights.restore(self.best)
        self._observer.note(
            "info",
            f"kept the weights after step {history.best_step} of {history.done}: their held-out loss, "
            f"{history.best_loss:.4f} nats per token, was the lowest",
        )


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` of them, evenly from the whole file: it may be sorted by something."""
    if len(examples) <= count:
        return list(examples)
    return [examples[index * len(examples) // count] for index in range(count)]
