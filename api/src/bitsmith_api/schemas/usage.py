"""What was used."""

from typing import Literal, Self

from bitsmith_core.delivery import usage
from pydantic import BaseModel, Field

from bitsmith_api.schemas.times import UnixSeconds, unix


class UsageResult(BaseModel):
    """By one group in one bucket of time. What was not grouped by is null."""

    object: Literal["usage.result"] = "usage.result"
    project_id: str | None
    model: str | None = Field(description="the base model", examples=["hf:org/name"])
    api_key_id: str | None = Field(
        description="whose key submitted the job, or `bootstrap`; null also for jobs that no key submitted"
    )
    gpu_seconds: float = Field(description="time that workers held jobs, times their devices; a CPU counts as one")
    attempts: int = Field(description="that ran in this time")
    jobs: int

    @classmethod
    def of(cls, used: usage.Used) -> Self:
        return cls(
            project_id=used.project,
            model=used.model,
            api_key_id=used.key,
            gpu_seconds=round(used.gpu_seconds, 3),
            attempts=used.attempts,
            jobs=used.jobs,
        )


class UsageBucket(BaseModel):
    object: Literal["usage.bucket"] = "usage.bucket"
    start: UnixSeconds
    end: UnixSeconds = Field(description="excluded")
    results: list[UsageResult] = Field(description="the most GPU time first; empty if nothing ran")

    @classmethod
    def of(cls, bucket: usage.Bucket) -> Self:
        return cls(
            start=unix(bucket.start), end=unix(bucket.end), results=[UsageResult.of(used) for used in bucket.used]
        )


class UsageReport(BaseModel):
    object: Literal["list"] = "list"
    data: list[UsageBucket]
