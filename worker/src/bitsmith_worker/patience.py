"""The object store as an attempt uses it: outages are waited out, for hours of training hang on it."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from bitsmith_core.errors import NotFound, StoreUnavailable
from bitsmith_core.log import get_logger
from bitsmith_core.storage import ObjectStore
from bitsmith_core.wire import FailureClass

from bitsmith_worker.failure import AttemptFailed

log = get_logger()
T = TypeVar("T")

_LONGEST_PAUSE_S = 15.0


class Abandoned(Exception):
    """The attempt is over; whoever still works on its files stops."""


class PatientStore:
    def __init__(self, store: ObjectStore, *, patience_s: float) -> None:
        self._store, self._patience_s = store, patience_s
        self._closed = threading.Event()

    def close(self) -> None:
        """Whoever waits for the store, in whatever thread, stops."""
        self._closed.set()

    def get(self, key: str, path: Path) -> None:
        """Raises NotFound and AttemptFailed."""
        self._patiently(partial(self._store.get_file, key, path))

    def put(self, key: str, path: Path) -> None:
        """Raises AttemptFailed."""
        try:
            self._patiently(partial(self._store.put_file, key, path))
        except NotFound as error:  # the bucket
            raise AttemptFailed(FailureClass.INFRA, "store_misconfigured", f"Cannot store {key}: {error}.") from error

    def has(self, key: str, *, size_bytes: int) -> bool:
        """Whether the object is there, whole. Raises AttemptFailed."""
        found = self._patiently(partial(self._store.stat, key))
        return found is not None and found.bytes == size_bytes

    def delete_below(self, prefix: str) -> None:
        """Once, without patience: what stays is the janitor's."""
        try:
            for found in list(self._store.list(f"{prefix}/")):
                self._store.delete(found.key)
        except StoreUnavailable as error:
            log.info("store.left_behind", prefix=prefix, reason=str(error))

    def _patiently(self, action: Callable[[], T]) -> T:
        started = time.monotonic()
        pause_s = 0.5
        while True:
            if self._closed.is_set():
                raise Abandoned
            try:
                return action()
            except StoreUnavailable as error:
                waited_s = time.monotonic() - started
                if waited_s > self._patience_s:
                    problem = f"The object store has been away for {waited_s:.0f} s: {error}."
                    raise AttemptFailed(FailureClass.INFRA, "store_unavailable", problem) from error
                log.warning("store.retry", waited_s=round(waited_s, 1), reason=str(error))
            self._closed.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
