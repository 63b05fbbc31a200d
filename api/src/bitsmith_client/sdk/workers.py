"""Workers as methods: who is there, and who shall stop."""

from datetime import datetime

from pydantic import BaseModel

from bitsmith_client.sdk.pages import listed, segment
from bitsmith_client.sdk.transport import Transport


class Worker(BaseModel):
    id: str  # its name
    status: str  # idle, busy or lost
    is_draining: bool
    pool: str = "default"  # whose jobs it takes
    device: str
    devices: int
    memory_bytes: int | None
    local_models: list[str]
    job_id: str | None  # None also for a job of another project
    started_at: datetime
    last_seen_at: datetime


class Workers:
    _path = "/v1/workers"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, pool: str | None = None, limit: int | None = 20) -> list[Worker]:
        """By name, lost ones too; a limit of None: all."""
        return listed(self._transport, self._path, Worker, limit=limit, query={"pool": pool} if pool else None)

    def drain(self, name: str) -> Worker:
        """Let it give back its job at a checkpoint and take no other. Only with the installation's bootstrap key."""
        return Worker.model_validate(self._transport.post(f"{self._path}/{segment(name)}/drain"))

    def undrain(self, name: str) -> Worker:
        return Worker.model_validate(self._transport.post(f"{self._path}/{segment(name)}/undrain"))
