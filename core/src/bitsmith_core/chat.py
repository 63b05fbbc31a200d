"""What chatting programs say to one another: the API to the serving service, and that to its engines.

    API      -- POST /v1/generate: an Order -->   serving   -- Ask, Cancel -->           engine
             <------- Reply lines -----------               <-- Ready, Reply lines --

    python -m bitsmith_engine.chat FOLDER

reads one JSON object a line on stdin and answers so on stdout; logs go to stderr. It says Ready once, or Failed and
ends. Then each Ask is answered by Deltas and one last line of its own: Done or Refused. EOF on stdin: it finishes
what it was asked and ends; it ends at once where nobody reads its answers any more. A service that an Order waits for
says Waiting every few seconds.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from bitsmith_core.bundle import StoredFile

MAX_STOPS = 16


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(_Line):
    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(_Line):
    """How the next token is drawn. The same seed, model and messages give the same answer."""

    temperature: float = Field(default=1.0, ge=0, le=2)  # 0: always the likeliest
    top_p: float = Field(default=1.0, gt=0, le=1)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)  # None: another one every time


class Prompt(_Line):
    """A conversation, and how it shall go on."""

    messages: tuple[Message, ...] = Field(min_length=1)
    sampling: Sampling = Sampling()
    max_tokens: int | None = Field(default=None, ge=1)  # None: as much as the context holds
    stop: tuple[str, ...] = Field(default=(), max_length=MAX_STOPS)

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if not all(stop):
            raise ValueError("an empty stop sequence would end every answer before it begins")
        return stop


class Order(_Line):
    """A prompt for a published version, with all that is needed to fetch it."""

    model: str  # name@version, for people
    manifest_sha256: str  # the version's identity
    files: tuple[StoredFile, ...]
    prompt: Prompt


class Ask(_Line):
    type: Literal["ask"] = "ask"
    id: str
    prompt: Prompt


class Cancel(_Line):
    """Nobody waits for this answer any more. An id that is not known (any more) is fine."""

    type: Literal["cancel"] = "cancel"
    id: str


class Ready(_Line):
    type: Literal["ready"] = "ready"
    device: str
    context_tokens: int  # prompt and answer together
    memory_bytes: int  # weights, and the caches of as many answers as are written at once
    packed_bytes: int  # of that, weights as they are stored
    load_s: float


class Failed(_Line):
    """The model cannot be chatted with; the engine ends."""

    type: Literal["failed"] = "failed"
    code: str
    message: str


class Waiting(_Line):
    type: Literal["waiting"] = "waiting"
    id: str = ""
    reason: str  # fetching, loading, queued


class Delta(_Line):
    type: Literal["delta"] = "delta"
    id: str
    text: str  # new, and final


Finish = Literal["stop", "length", "cancelled"]


class Done(_Line):
    type: Literal["done"] = "done"
    id: str
    finish: Finish  # stop: the model or a stop sequence ended it; length: max_tokens or the context did
    prompt_tokens: int
    completion_tokens: int


class Refused(_Line):
    """There is no (further) answer."""

    type: Literal["refused"] = "refused"
    id: str
    code: str  # stable, snake_case
    message: str  # what happened and what to do, with values
    is_retryable: bool = False  # not the prompt's fault: the same may succeed later


Request = Annotated[Ask | Cancel, Field(discriminator="type")]
Reply = Annotated[Waiting | Delta | Done | Refused, Field(discriminator="type")]
EngineLine = Annotated[Ready | Failed | Delta | Done | Refused, Field(discriminator="type")]

REQUESTS: TypeAdapter[Ask | Cancel] = TypeAdapter(Request)
REPLIES: TypeAdapter[Waiting | Delta | Done | Refused] = TypeAdapter(Reply)
ENGINE_LINES: TypeAdapter[Ready | Failed | Delta | Done | Refused] = TypeAdapter(EngineLine)


def encode(line: BaseModel) -> bytes:
    return line.model_dump_json().encode() + b"\n"
