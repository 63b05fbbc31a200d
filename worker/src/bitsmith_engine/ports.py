"""What the engine's parts say upwards: how far they are, and what a person should know."""

from collections.abc import Mapping
from typing import Literal, Protocol


class Observer(Protocol):
    def progress(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """A boundary at which stopping loses nothing; call it as often as there is one.

        Raises:
            Stopped: somebody asked the run to stop.
        """

    def note(self, level: Literal["info", "warn"], message: str) -> None: ...


class Silent:
    """An observer for callers that do not listen."""

    def progress(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        pass

    def note(self, level: Literal["info", "warn"], message: str) -> None:
        pass
