"""Carries what the engine says on stderr to the object store, in pieces, while it says it.

Nobody waits for it: a log that cannot be kept is no reason to stop training.
"""

import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable, LeaseLost, NotFound, StoreUnavailable
from bitsmith_core.jobs import Lease
from bitsmith_core.log import get_logger
from bitsmith_core.storage import ObjectStore

from bitsmith_worker.settings import WorkerSettings

log = get_logger()

_LARGEST_PIECE = 2**20  # bytes
_LAST_PIECES_S = 5.0


class EngineLog:
    """A thread from the start of an attempt to its end; both ends ship what there is."""

    def __init__(
        self,
        settings: WorkerSettings,
        database: Database,
        store: ObjectStore,
        lease: Lease,
        path: Path,
        *,
        on_lease_lost: Callable[[], None],
    ) -> None:
        self._settings, self._database, self._store = settings, database, store
        self._lease, self._path, self._on_lease_lost = lease, path, on_lease_lost
        self._offset = self._number = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(_LAST_PIECES_S)

    def _run(self) -> None:
        while not self._stopped.wait(self._settings.log_every_s):
            if not self._ship(is_last=False):
                return
        self._ship(is_last=True)

    def _ship(self, *, is_last: bool) -> bool:
        """All there is now; answers whether it is worth trying again."""
        give_up_at = time.monotonic() + _LAST_PIECES_S
        while piece := self._next_piece(is_last=is_last):
            try:
                self._keep(piece)
            except LeaseLost:
                self._on_lease_lost()
                return False
            except (StoreUnavailable, DatabaseUnavailable, NotFound) as error:
                log.warning("engine_log.not_kept", reason=str(error))
                return not is_last
            except Exception:  # a thread's outermost edge
                log.exception("engine_log.broke")
                return False
            if is_last and time.monotonic() > give_up_at:
                return False
        return True

    def _next_piece(self, *, is_last: bool) -> bytes:
        """Whole lines, unless there is no end of one in sight."""
        left = self._settings.log_limit_bytes - self._offset
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                piece = file.read(max(min(_LARGEST_PIECE, left), 0))
        except FileNotFoundError:
            return b""
        end = piece.rfind(b"\n") + 1
        if end and not is_last:
            return piece[:end]
        return piece if is_last or len(piece) == _LARGEST_PIECE else b""

    def _keep(self, piece: bytes) -> None:
        key = f"{self._lease.prefix}/logs/{self._number:06d}.log"
        self._store.put_stream(key, BytesIO(piece), size_bytes=len(piece))
        with self._database.transaction() as tx:
            jobs.keep_log(
                tx,
                self._lease,
                number=self._number,
                object_key=key,
                size_bytes=len(piece),
                lines=piece.count(b"\n") + (not piece.endswith(b"\n")),
            )
        self._offset += len(piece)
        self._number += 1
