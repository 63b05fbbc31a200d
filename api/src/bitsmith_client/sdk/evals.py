"""Bitsmith(url, key).evals and .judgements: what was measured, and whether two versions differ."""

from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from bitsmith_client.sdk.answers import Job, Moment, Score
from bitsmith_client.sdk.pages import listed, segment
from bitsmith_client.sdk.transport import Json, Transport


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Eval(_Answer):
    id: str
    model: str
    version: int
    subject: str
    job_id: str
    engine: str
    has_items: bool
    created_at: Moment
    results: list[Score]

    @property
    def of(self) -> str:
        return f"{self.model}@{self.version}"


class Rating(_Answer):
    contestant: str
    rating: float
    low: float
    high: float
    wins: int
    losses: int
    ties: int


class PositionBias(_Answer):
    first_share: float | None
    both_orders: int
    agreeing: int


class Judgement(_Answer):
    id: str
    title: str
    judge: str
    contestants: list[str]
    ratings: list[Rating] = Field(default_factory=list)
    position_bias: PositionBias | None = None


class Evals:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, *, model: str | None = None, version: int | None = None, task: str | None = None, limit: int | None = 20
    ) -> list[Eval]:
        """Newest first; None: all."""
        wanted = {"model": model, "version": version, "task": task}
        query: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        return listed(self._transport, "/v1/evals", Eval, limit=limit, query=query)

    def get(self, eval_id: str) -> Eval:
        return Eval.model_validate(self._transport.get(f"/v1/evals/{segment(eval_id)}"))

    def run(
        self,
        version: str,
        *,
        evaluation: Json | None = None,
        validation_file: str | None = None,
        base: bool = True,
        seed: int = 0,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job that scores a version again.

        Args:
            evaluation: as in a job's method: benchmarks, perplexity_examples, multiple_choice.
            base: score the float base as well.
        """
        settings: Json = {"version": version, "base": base, "evaluation": evaluation or {}}
        body: Json = {"method": {"type": "evaluate", "evaluate": settings}, "seed": seed}
        if validation_file is not None:
            body["validation_file"] = validation_file
        key = idempotency_key or str(uuid4())
        return Job.model_validate(self._transport.post("/v1/fine_tuning/jobs", body, key=key))


class Judgements:
    _path = "/v1/judgements"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, body: Json, *, idempotency_key: str | None = None) -> Judgement:
        """Verdicts in, ratings out."""
        key = idempotency_key or str(uuid4())
        return Judgement.model_validate(self._transport.post(self._path, body, key=key, timeout_s=120))

    def list(self, *, limit: int | None = 20) -> list[Judgement]:
        return listed(self._transport, self._path, Judgement, limit=limit)

    def get(self, judgement_id: str) -> Judgement:
        return Judgement.model_validate(self._transport.get(f"{self._path}/{segment(judgement_id)}"))
