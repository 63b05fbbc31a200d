"""Chat completions in OpenAI's shapes. Parameters that are not supported are refused by name."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from bitsmith_core.chat import MAX_STOPS, Message, Prompt, Sampling
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from bitsmith_api.schemas.times import UnixSeconds

MAX_MESSAGES = 2048


@dataclass(frozen=True, slots=True)
class _Only:
    """A parameter that is not supported: only null and values that ask for nothing are let through."""

    neutral: tuple[Any, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": [*self.neutral, None], "description": "not supported"}

    def check(self, value: Any) -> Any:
        # 1 is True to Python, and not to a person.
        if value is None or any(type(value) is type(one) and value == one for one in self.neutral):
            return value
        shown = ", ".join(json.dumps(one) for one in (*self.neutral, None))
        raise PydanticCustomError(
            "unsupported_parameter", "not supported here: leave it out, or send {shown}", {"shown": shown}
        )


Unsupported = Annotated[Any, _Only()]


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn. Parts of a content are joined; pictures, sound and tools are not supported."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    # What clients send back of an earlier answer.
    name: Unsupported = None
    refusal: Unsupported = None
    annotations: Annotated[Any, _Only(([],))] = None
    audio: Unsupported = None
    tool_calls: Annotated[Any, _Only(([],))] = None
    function_call: Unsupported = None

    def as_message(self) -> Message:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=content)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: bool = Field(default=False, description="one more chunk at the end, with the tokens used")
    include_obfuscation: Annotated[Any, _Only((False, True))] = None


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, examples=["name-qsft@1"], description="name@version, or name for its newest")
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, description="unset: as many as the context holds")
    max_tokens: int | None = Field(default=None, ge=1, description="the older name of max_completion_tokens")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0: always the likeliest token; 1 if unset")
    top_p: float | None = Field(default=None, gt=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(
        default=None, ge=-(2**63), lt=2**63, description="the same seed and request give the same answer"
    )
    stop: Annotated[list[Annotated[str, Field(min_length=1)]] | None, BeforeValidator(_listed)] = Field(
        default=None, max_length=MAX_STOPS, description="one text or several; the answer ends before the first of them"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    user: str | None = Field(default=None, description="accepted and ignored, as are metadata and the cache keys")
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: Annotated[Any, _Only(("auto", "default"))] = None
    store: Annotated[Any, _Only((False,))] = None
    n: Annotated[Any, _Only((1,))] = None
    logprobs: Annotated[Any, _Only((False,))] = None
    top_logprobs: Annotated[Any, _Only((0,))] = None
    logit_bias: Annotated[Any, _Only(({},))] = None
    response_format: Annotated[Any, _Only(({"type": "text"},))] = None
    modalities: Annotated[Any, _Only((["text"],))] = None
    audio: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    verbosity: Unsupported = None
    tools: Annotated[Any, _Only(([],))] = None
    tool_choice: Annotated[Any, _Only(("none", "auto"))] = None
    parallel_tool_calls: Annotated[Any, _Only((True, False))] = None
    functions: Annotated[Any, _Only(([],))] = None
    function_call: Annotated[Any, _Only(("none", "auto"))] = None
    web_search_options: Unsupported = None
    moderation: Unsupported = None

    def as_prompt(self) -> Prompt:
        asked = {name: value for name in Sampling.model_fields if (value := getattr(self, name)) is not None}
        return Prompt(
            messages=tuple(message.as_message() for message in self.messages),
            sampling=Sampling(**asked),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=tuple(self.stop or ()),
        )

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> Self:
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str = Field(examples=["chatcmpl-0kp1p4n3vtsu5qc1q0o8g0a4lk"])
    object: Literal["chat.completion"] = "chat.completion"
    created: UnixSeconds
    model: str = Field(description="the version that answered, as name@version")
    system_fingerprint: str = Field(description="of the version's files: equal ones answer equally")
    choices: list[Choice]
    usage: Usage


class ChunkDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: Literal[0] = 0
    delta: ChunkDelta
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: UnixSeconds
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None

    def as_event(self, *, with_usage: bool) -> str:
        """As OpenAI streams it: a delta holds what is new only, and usage is there only if it was asked for."""
        body = self.model_dump(exclude=None if with_usage else {"usage"})
        for choice in body["choices"]:
            choice["delta"] = {name: value for name, value in choice["delta"].items() if value is not None}
        return event(body)


def event(body: Any) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


LAST_EVENT = "data: [DONE]\n\n"


def request_body() -> dict[str, Any]:
    """OpenAPI's word for ChatRequest, which FastAPI cannot see; models within are written out in place."""
    schema = ChatRequest.model_json_schema()
    definitions = schema.pop("$defs")

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inlined(definitions[part["$ref"].rpartition("/")[2]])
        return {name: inlined(value) for name, value in part.items()}

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined(schema)}}}}
