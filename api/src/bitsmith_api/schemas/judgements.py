"""Pairwise judgements: verdicts in, ratings out."""

from functools import lru_cache
from typing import Annotated, Literal, Self

from bitsmith_core.registry.elo import Bias, Rating, Verdict, Winner, elo, position_bias
from bitsmith_core.registry.judgement_rows import Judgement as Row
from bitsmith_core.registry.judgement_rows import verdicts_of
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix

MOST_CONTESTANTS = 16
MOST_VERDICTS = 8000  # of a few dozen bytes each, within the largest body

Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class JudgedPair(BaseModel):
    """One verdict. Contestants are positions in `contestants`."""

    model_config = ConfigDict(extra="forbid")

    prompt: int = Field(ge=0, lt=2**31, description="which prompt, by its number")
    first: int = Field(ge=0, lt=MOST_CONTESTANTS, description="whose answer was shown first")
    second: int = Field(ge=0, lt=MOST_CONTESTANTS)
    winner: Winner

    @model_validator(mode="after")
    def _are_two(self) -> Self:
        if self.first == self.second:
            raise ValueError(f"contestant {self.first} was judged against itself")
        return self


class NewJudgement(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: Text
    judge: Text = Field(description="the judging model, as its endpoint calls it")
    prompts_sha256: Sha256 = Field(description="of the prompts, so that judgements of the same ones are known")
    template_sha256: Sha256 = Field(description="of the judge's instructions")
    contestants: list[Text] = Field(min_length=2, max_length=MOST_CONTESTANTS, examples=[["name-qsft@1", "name@2"]])
    verdicts: list[JudgedPair] = Field(min_length=1, max_length=MOST_VERDICTS)

    @field_validator("contestants")
    @classmethod
    def _differ(cls, contestants: list[str]) -> list[str]:
        if len(set(contestants)) < len(contestants):
            raise ValueError("a contestant is named twice")
        return contestants

    @model_validator(mode="after")
    def _verdicts_are_of_contestants(self) -> Self:
        highest = max(max(verdict.first, verdict.second) for verdict in self.verdicts)
        if highest >= len(self.contestants):
            raise ValueError(f"a verdict names contestant {highest}, and there are {len(self.contestants)} (from 0)")
        return self


class ContestantRating(BaseModel):
    contestant: str
    rating: float = Field(description="on Elo's scale, 1000 on average; 400 points are odds of ten to one")
    low: float = Field(description="95 % interval, of a bootstrap over prompts")
    high: float
    wins: int
    losses: int
    ties: int


class PositionBias(BaseModel):
    """What the judge made of the order of two answers."""

    first_wins: int
    second_wins: int
    ties: int
    first_share: float | None = Field(description="of decided verdicts those for what was shown first; 0.5 is fair")
    both_orders: int = Field(description="pairs of answers that were shown in either order")
    agreeing: int = Field(description="of those: with the same verdict both times")

    @classmethod
    def of(cls, found: Bias) -> Self:
        return cls(
            first_wins=found.first_wins, second_wins=found.second_wins, ties=found.ties,
            first_share=found.first_share, both_orders=found.both_orders, agreeing=found.agreeing,
        )  # fmt: skip


class JudgementSummary(Listed):
    id: str = Field(examples=["judge-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["judgement"] = "judgement"
    title: str
    judge: str
    prompts_sha256: str
    template_sha256: str
    contestants: list[str]
    verdict_count: int
    created_by: str | None
    created_at: UnixSeconds

    @classmethod
    def of(cls, row: Row) -> Self:
        return cls(
            id=row.id, title=row.title, judge=row.judge, prompts_sha256=row.prompts_sha256,
            template_sha256=row.template_sha256, contestants=row.contestants, verdict_count=len(row.verdicts),
            created_by=row.created_by, created_at=unix(row.created_at),
        )  # fmt: skip


class JudgementList(Page[JudgementSummary]):
    pass


class Judgement(JudgementSummary):
    ratings: list[ContestantRating] = Field(description="the best first")
    position_bias: PositionBias
    verdicts: list[JudgedPair]

    @classmethod
    def rated(cls, row: Row) -> Self:
        verdicts = verdicts_of(row)
        ratings = [
            ContestantRating(
                contestant=name, rating=found.rating, low=found.low, high=found.high,
                wins=found.wins, losses=found.losses, ties=found.ties,
            )
            for name, found in zip(row.contestants, _ratings(verdicts, len(row.contestants)), strict=True)
        ]  # fmt: skip
        return cls(
            **dict(JudgementSummary.of(row)),
            ratings=sorted(ratings, key=lambda rating: -rating.rating),
            position_bias=PositionBias.of(position_bias(verdicts)),
            verdicts=[JudgedPair(**verdict._asdict()) for verdict in verdicts],
        )


@lru_cache(maxsize=32)
def _ratings(verdicts: tuple[Verdict, ...], contestants: int) -> list[Rating]:
    """Verdicts never change, and the bootstrap takes a second where there are many."""
    return elo(verdicts, contestants)
