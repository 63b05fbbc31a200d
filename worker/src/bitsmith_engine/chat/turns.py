"""Several answers in turns: each gets one pass through the model, then the next. The rest waits, first come first."""

import queue
from collections import deque
from collections.abc import Callable

import torch
from bitsmith_core.chat import Ask, Cancel, Delta, Done, Refused
from pydantic import BaseModel

from bitsmith_engine.chat.generation import Generation
from bitsmith_engine.chat.opening import ChatModel
from bitsmith_engine.errors import EngineError

Emit = Callable[[BaseModel], None]


class Turns:
    """
    Args:
        parallel: how many answers are written at once.
        emit: takes the lines of bitsmith_core.chat.
    """

    def __init__(self, chat: ChatModel, *, parallel: int, emit: Emit) -> None:
        self._chat, self._parallel, self._emit = chat, parallel, emit
        self._waiting: deque[Ask] = deque()
        self._active: dict[str, Generation] = {}  # in the order of their turns

    @property
    def is_idle(self) -> bool:
        return not self._active and not self._waiting

    def take(self, request: Ask | Cancel) -> None:
        if isinstance(request, Ask):
            self._waiting.append(request)
            return
        for ask in [ask for ask in self._waiting if ask.id == request.id]:
            self._waiting.remove(ask)
            self._emit(Done(id=ask.id, finish="cancelled", prompt_tokens=0, completion_tokens=0))
        if request.id in self._active:
            self._active[request.id].cancel()

    def round(self) -> None:
        """One pass for each answer that is being written."""
        while self._waiting and len(self._active) < self._parallel:
            self._begin(self._waiting.popleft())
        for id_, generation in list(self._active.items()):
            if generation.finish is None and not self._advance(id_, generation):
                continue
            if generation.finish is not None:
                del self._active[id_]
                self._emit(
                    Done(
                        id=id_,
                        finish=generation.finish,
                        prompt_tokens=generation.prompt_tokens,
                        completion_tokens=generation.completion_tokens,
                    )
                )

    def _begin(self, ask: Ask) -> None:
        try:
            self._active[ask.id] = Generation(self._chat, ask.prompt)
        except EngineError as error:
            self._emit(Refused(id=ask.id, code=error.code, message=str(error)))

    def _advance(self, id_: str, generation: Generation) -> bool:
        """Whether the answer goes on, or ended well."""
        try:
            text = generation.advance()
        except (torch.OutOfMemoryError, MemoryError) as error:
            del self._active[id_]
            message = f"the memory is full ({error}); try again when fewer answers are written, or ask for less"
            self._emit(Refused(id=id_, code="out_of_space", message=message, is_retryable=True))
            return False
        if text:
            self._emit(Delta(id=id_, text=text))
        return True


def answer_all(turns: Turns, requests: "queue.SimpleQueue[Ask | Cancel | None]") -> None:
    """Answer what comes; None means that nothing more will, and what was asked for is finished."""
    is_over = False
    while not (is_over and turns.is_idle):
        while not is_over and (turns.is_idle or not requests.empty()):
            request = requests.get()
            if request is None:
                is_over = True
            else:
                turns.take(request)
        turns.round()
