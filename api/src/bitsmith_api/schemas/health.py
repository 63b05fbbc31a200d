"""Whether the service is there and can work."""

from typing import Literal

from pydantic import BaseModel, Field


class Live(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    status: Literal["ok"] = "ok"
    checks: dict[str, Literal["ok"]] = Field(examples=[{"postgres": "ok", "object_store": "ok"}])
