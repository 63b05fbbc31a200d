"""Makes what the engine finished survive this worker: one upload after the other, while the engine goes on.

If an upload fails, a later attempt repeats more work, nothing worse. Of checkpoints within a stage only the newest is
worth an upload that has not begun.
"""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from bitsmith_core import jobs
from bitsmith_core.db import Tx
from bitsmith_core.errors import LeaseLost
from bitsmith_core.jobs import Lease
from bitsmith_core.log import get_logger
from bitsmith_core.wire import CheckpointSaved, Line, Stage, StageFinished

from bitsmith_worker.failure import AttemptFailed
from bitsmith_worker.heartbeat import AttemptOver
from bitsmith_worker.patience import Abandoned
from bitsmith_worker.workspace import Workspace

log = get_logger()
T = TypeVar("T")


class Commit(Protocol):
    """One transaction, repeated while Postgres does not answer. Raises AttemptOver and LeaseLost."""

    def __call__(self, action: Callable[[Tx], T], /) -> T: ...


class Keeper:
    def __init__(
        self,
        workspace: Workspace,
        lease: Lease,
        transfers: ThreadPoolExecutor,
        *,
        commit: Commit,
        on_lease_lost: Callable[[], None],
    ) -> None:
        self._workspace, self._lease, self._transfers = workspace, lease, transfers
        self._commit, self._on_lease_lost = commit, on_lease_lost
        self._lock = threading.Lock()
        self._held: dict[Stage, tuple[CheckpointSaved, Path]] = {}  # what waits for its upload
        self.uploads: list[Future[None]] = []

    def hear(self, line: Line) -> None:
        """Returns at once."""
        match line:
            case StageFinished(resumed=False):
                self._replace(line.stage, None)
                self._submit(partial(self._keep_stage, line.stage))
            case CheckpointSaved():
                self._survive(partial(self._hold, line))
            case _:
                pass

    def _hold(self, line: CheckpointSaved) -> None:
        held = self._workspace.hold(line.path)
        if held is not None:
            self._replace(line.stage, (line, held))
            self._submit(partial(self._keep_checkpoint, line.stage))

    def _replace(self, stage: Stage, new: tuple[CheckpointSaved, Path] | None) -> None:
        with self._lock:
            old = self._held.pop(stage, None)
            if new is not None:
                self._held[stage] = new
        if old is not None:
            shutil.rmtree(old[1], ignore_errors=True)

    def _submit(self, work: Callable[[], None]) -> None:
        self.uploads = [upload for upload in self.uploads if not upload.done()]
        self.uploads.append(self._transfers.submit(self._survive, work))

    def _survive(self, work: Callable[[], None]) -> None:
        try:
            work()
        except LeaseLost:
            self._on_lease_lost()
        except (AttemptOver, Abandoned):
            pass
        except AttemptFailed as failed:
            log.warning("checkpoint.not_kept", job_id=self._lease.job_id, reason=str(failed))
        except Exception:  # a thread's outermost edge
            log.exception("checkpoint.not_kept", job_id=self._lease.job_id)

    def _keep_stage(self, stage: Stage) -> None:
        kept = self._workspace.upload_stage(stage)
        if kept is not None:
            self._commit(
                lambda tx: jobs.keep_checkpoint(
                    tx, self._lease, stage=stage, prefix=kept.prefix, files=kept.files, size_bytes=kept.size_bytes
                )
            )

    def _keep_checkpoint(self, stage: Stage) -> None:
        with self._lock:
            waiting = self._held.pop(stage, None)
        if waiting is None:  # a later one went up in its place
            return
        line, held = waiting
        try:
            kept = self._workspace.upload_held(held, stage=stage, step=line.step)
        finally:
            shutil.rmtree(held, ignore_errors=True)
        if kept is None:
            return
        dropped = self._commit(
            lambda tx: jobs.keep_checkpoint(
                tx,
                self._lease,
                stage=stage,
                step=line.step,
                prefix=kept.prefix,
                files=kept.files,
                size_bytes=kept.size_bytes,
                metrics=line.metrics,
            )
        )
        for prefix in dropped:
            if prefix != kept.prefix:  # a run that went back saves a step again
                self._workspace.forget(prefix)
