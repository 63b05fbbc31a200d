"""Bitsmith(url, key).chat: conversations with published models."""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bitsmith_client.sdk.errors import ApiError, Disconnected
from bitsmith_client.sdk.stream import messages
from bitsmith_client.sdk.transport import Json, Transport

_PATH = "/v1/chat/completions"


@dataclass(slots=True)
class Ending:
    """How an answer ended; filled when its stream is over."""

    finish_reason: str = ""
    model: str = ""  # the version that answered
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Chat:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def stream(
        self, model: str, conversation: Sequence[Json], *, ending: Ending | None = None, **settings: Any
    ) -> Generator[str, None, None]:
        """The answer's text as it is written. Closing the iterator stops the generation.

        Args:
            model: name@version, or name for its newest.
            conversation: `{"role": …, "content": …}`, the last one the user's.
            ending: is told how it ended.
            settings: of the request: temperature, top_p, max_completion_tokens, seed, stop, …

        Raises:
            ApiError: there is no such model, or it cannot answer this.
            Disconnected: in the middle of it.
        """
        body = {
            "model": model,
            "messages": list(conversation),
            "stream": True,
            "stream_options": {"include_usage": True},
            **settings,
        }
        ending = ending or Ending()
        with self._transport.post_lines(_PATH, body) as lines:
            for message in messages(lines):
                if message.data == "[DONE]":
                    return
                chunk = json.loads(message.data)
                if "error" in chunk:
                    error = chunk["error"]
                    raise ApiError(status=200, code=str(error["code"]), detail=str(error["message"]))
                yield from _texts(chunk, ending)
        raise Disconnected("the answer broke off; ask again")


def _texts(chunk: Json, ending: Ending) -> Iterator[str]:
    ending.model = chunk["model"]
    if usage := chunk.get("usage"):
        ending.prompt_tokens, ending.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    for choice in chunk["choices"]:
        ending.finish_reason = choice["finish_reason"] or ending.finish_reason
        if text := choice["delta"].get("content"):
            yield text
