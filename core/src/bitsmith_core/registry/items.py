"""evals.json of evaluations, read from the object store. Never inside a transaction: the store may take its time.

An object never changes, so what was read may be kept; how much is kept is bounded.
"""

import threading
from collections import OrderedDict

from pydantic import ValidationError

from bitsmith_core.bundle import Evals
from bitsmith_core.errors import NotFound
from bitsmith_core.log import get_logger
from bitsmith_core.storage import ObjectStore

log = get_logger()

KEPT_BYTES = 16 * 2**20  # as JSON; several times that in memory
MOST_BYTES = 256 * 2**20  # of one file; all of mmlu on three models is 6 MB
_RANGE_BYTES = 16 * 2**20


class Items:
    """Of all evaluations; safe for threads."""

    def __init__(self, store: ObjectStore, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._store, self._kept_bytes = store, kept_bytes
        self._kept: OrderedDict[str, tuple[int, Evals]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, key: str) -> Evals | None:
        """None: the object is gone, or no engine of ours wrote it.

        Raises:
            StoreUnavailable
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][1]
        content = self._bytes(key)
        if content is None:
            return None
        try:
            evals = Evals.model_validate_json(content)
        except ValidationError as error:
            log.warning("evals.unreadable", key=key, problem=str(error.errors(include_input=False)[0]["msg"]))
            return None
        self._keep(key, len(content), evals)
        return evals

    def _bytes(self, key: str) -> bytes | None:
        try:
            found = self._store.stat(key)
            if found is None or found.bytes > MOST_BYTES:
                return None
            ranges = range(0, found.bytes, _RANGE_BYTES)
            parts = [
                self._store.read(key, offset=start, length=min(_RANGE_BYTES, found.bytes - start)) for start in ranges
            ]
            return b"".join(parts)
        except NotFound:
            return None

    def _keep(self, key: str, size_bytes: int, evals: Evals) -> None:
        if size_bytes > self._kept_bytes:
            return
        with self._lock:
            self._kept[key] = (size_bytes, evals)
            while sum(size for size, _ in self._kept.values()) > self._kept_bytes:
                self._kept.popitem(last=False)
