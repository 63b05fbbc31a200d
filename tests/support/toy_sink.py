"""A gradient sink that only listens."""

from collections.abc import Callable

from torch import Tensor


class Recorder:
    """Keeps a copy of every gradient, in the order they came."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Tensor]] = []

    def choose_tokens(self, importance: Callable[[], Tensor]) -> None:
        return None

    def receive(self, name: str, grad_NK: Tensor) -> None:
        self.received.append((name, grad_NK.clone()))
