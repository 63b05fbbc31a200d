"""How this worker works. Read once at start from BITSMITH_WORKER_*, frozen, passed down."""

import os
import socket
import sys
from datetime import timedelta
from pathlib import Path

from bitsmith_core.pools import DEFAULT_POOL, PoolName
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class WorkerSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="BITSMITH_WORKER_", frozen=True)

    name: str = Field(default_factory=_own_name, min_length=1, description="unique among live workers")
    pool: PoolName = Field(default=DEFAULT_POOL, description="the worker takes jobs that name this pool, and no others")
    scratch: Path = Field(description="folder for one attempt's files at a time; emptied of dead attempts at start")
    models: Path | None = Field(default=None, description="folder that local: models are resolved in")
    engine: tuple[str, ...] = Field(
        default=(sys.executable, "-m", "bitsmith_engine"),
        min_length=1,
        description="command the engine is started with; SPEC INPUTS OUT are added (JSON list)",
    )
    lease_s: float = Field(default=90, gt=0, description="a silent worker loses its job after this")
    heartbeat_s: float = Field(default=15, gt=0, description="pause between two extensions of the lease")
    presence_s: float = Field(default=5, gt=0, description="pause between two reports; workers count as alive for 20 s")
    engine_stop_s: float = Field(default=20, gt=0, description="from SIGTERM to SIGKILL of an engine")
    pause_within_s: float = Field(
        default=300, gt=0, description="the same when nothing is urgent: a pause or a drain waits for a checkpoint"
    )
    leave_within_s: float = Field(
        default=10, gt=0, description="for last uploads of a worker that was told to go, after its engine has ended"
    )
    metrics_every_s: float = Field(default=5, gt=0, description="pause between two pieces of an attempt's metrics")
    log_every_s: float = Field(default=5, gt=0, description="pause between two pieces of an engine's log")
    log_limit_bytes: int = Field(
        default=64 * 2**20, ge=0, description="of one attempt's log; what comes later stays unseen"
    )
    store_patience_s: float = Field(
        default=600, gt=0, description="how long an outage of the object store is waited out"
    )

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_s)

    @property
    def fence_s(self) -> float:
        """Without a heartbeat for so long the attempt stops itself, well before another may start."""
        return self.lease_s * 2 / 3
