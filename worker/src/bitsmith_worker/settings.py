"""How this worker works. Read once at start from BITSMITH_WORKER_*, frozen, passed down."""

import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Self

from bitsmith_core.pools import DEFAULT_POOL, PoolName
from bitsmith_core.settings import Settings
from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import SettingsConfigDict


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class WorkerSettings(Settings):
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
    processes: int | None = Field(
        default=None, ge=1, description="of the engine, for jobs whose training can be shared; else one for each GPU"
    )
    once: bool = Field(default=False, description="end after one attempt, however it went")
    idle_within_s: float = Field(default=300, gt=0, description="with once: end if no attempt begins for so long")
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


class GangSettings(Settings):
    """Several nodes that train for one job, from BITSMITH_*. One of them is the worker, the others help it."""

    model_config = SettingsConfigDict(env_prefix="BITSMITH_", frozen=True, populate_by_name=True)

    nodes: int = Field(default=1, ge=1, description="of the gang; all have equally many processes")
    node_rank: int = Field(
        default=0,
        ge=0,
        validation_alias=AliasChoices("BITSMITH_NODE_RANK", "JOB_COMPLETION_INDEX"),
        description="0 leads; Kubernetes tells it to the pods of an Indexed Job",
    )
    leader_host: str = Field(default="", description="how the other nodes reach the one that leads")
    leader_port: int = Field(default=29500, ge=1, le=65535, description="that its processes listen on")

    @model_validator(mode="after")
    def _has_its_place(self) -> Self:
        if self.nodes > 1 and self.node_rank >= self.nodes:
            raise ValueError(f"BITSMITH_NODE_RANK is {self.node_rank}, but BITSMITH_NODES is {self.nodes}")
        if self.is_helper and not self.leader_host:
            raise ValueError("BITSMITH_LEADER_HOST is needed on every node but the first")
        return self

    @property
    def is_helper(self) -> bool:
        """Whether this node helps a worker. The index of an Indexed Job alone says nothing: its pods may be workers."""
        return self.nodes > 1 and self.node_rank > 0
