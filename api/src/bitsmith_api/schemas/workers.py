"""Who is there to do the work."""

from typing import Literal, Self

from bitsmith_core.ids import ProjectId
from bitsmith_core.jobs.workers import Seen
from pydantic import Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix


class Worker(Listed):
    """A worker as it last reported. It serves all projects, and takes one job at a time."""

    id: str = Field(description="its name", examples=["gpu-0"])
    object: Literal["worker"] = "worker"
    status: Literal["idle", "busy", "lost"] = Field(description="lost: it has not reported for 20 seconds")
    is_draining: bool = Field(description="it takes no other job, and gives back its own at a checkpoint")
    pool: str = Field(description="it takes the jobs that name this one, and no others", examples=["default"])
    device: str = Field(examples=["NVIDIA H100 80GB HBM3"])
    devices: int = Field(description="each job takes all of them")
    memory_bytes: int | None = Field(description="of one device; the machine's without a GPU")
    local_models: list[str] = Field(description="base models that a job may name as `local:…` there")
    job_id: str | None = Field(description="what it works on; null also for a job of another project")
    started_at: UnixSeconds
    last_seen_at: UnixSeconds

    @classmethod
    def of(cls, seen: Seen, *, project: ProjectId | None) -> Self:
        """
        Args:
            project: whose jobs may be named; None: anybody's.
        """
        worker, is_alive, job = seen
        return cls(
            id=worker.name,
            status="lost" if not is_alive else "idle" if job is None else "busy",
            is_draining=worker.is_draining,
            pool=worker.pool,
            device=worker.device,
            devices=worker.devices,
            memory_bytes=worker.memory_bytes,
            local_models=worker.local_models,
            job_id=job.id if job is not None and project in (None, job.project_id) else None,
            started_at=unix(worker.started_at),
            last_seen_at=unix(worker.seen_at),
        )


class WorkerList(Page[Worker]):
    pass
