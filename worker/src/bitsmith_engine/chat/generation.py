"""One answer, written a pass through the model at a time, so that several can be written in turns.

An answer depends on its own prompt and seed alone: it has its own cache and its own random numbers, and its prompt is
read in pieces of one size, whatever else the engine does.
"""

import random
from collections import Counter

import torch
from bitsmith_core.chat import Finish, Prompt
from torch import Tensor
from transformers import DynamicCache

from bitsmith_engine.chat.opening import ChatModel
from bitsmith_engine.chat.sampling import choose
from bitsmith_engine.chat.text import Detokenizer, StopFinder
from bitsmith_engine.data.examples import render
from bitsmith_engine.errors import BadData

PROMPT_TOKENS_AT_ONCE = 256  # a long prompt is read in pieces: others get their turn, and cancelling works


class TooLong(BadData):
    code = "context_length_exceeded"


class Generation:
    """Call advance until `finish` says why it is over.

    Raises:
        BadData: the chat template refuses the conversation.
        TooLong: it fills the whole context.
    """

    def __init__(self, chat: ChatModel, prompt: Prompt) -> None:
        self._chat = chat
        self._sampling = prompt.sampling
        ids = _prompt_ids(chat, prompt)
        self.prompt_tokens = len(ids)
        self.completion_tokens = 0
        self.finish: Finish | None = None
        room = chat.context_tokens - len(ids)
        self._tokens_left = room if prompt.max_tokens is None else min(room, prompt.max_tokens)
        self._unread = ids
        self._cache = DynamicCache(config=chat.model.config)
        # Mersenne Twister's numbers are the same in every version of Python; torch promises that for its own nowhere.
        self._random = random.Random(prompt.sampling.seed)
        self._counts: Counter[int] = Counter()
        self._text = Detokenizer(chat.tokenizer)
        self._stops = StopFinder(prompt.stop)

    def advance(self) -> str:
        """One pass through the model; answers the text that is new and certain, often none."""
        now, self._unread = self._unread[:PROMPT_TOKENS_AT_ONCE], self._unread[PROMPT_TOKENS_AT_ONCE:]
        logits_V = self._read(now)
        if self._unread:
            return ""
        token = choose(logits_V, self._sampling, self._counts, self._random.random())
        self.completion_tokens += 1
        self._tokens_left -= 1
        if token in self._chat.stop_ids:
            return self._end("stop")
        self._counts[token] += 1
        self._unread = [token]
        text = self._stops.push(self._text.push(token))
        if self._stops.is_found:
            self.finish = "stop"
        elif self._tokens_left == 0:
            text += self._end("length")
        return text

    def cancel(self) -> None:
        self.finish = "cancelled"

    def _end(self, finish: Finish) -> str:
        text = self._stops.push(self._text.flush()) + self._stops.flush()
        self.finish = "stop" if self._stops.is_found else finish
        return text

    @torch.inference_mode()
    def _read(self, ids: list[int]) -> Tensor:
        tokens_1T = torch.tensor([ids], device=self._chat.runtime.device)
        output = self._chat.model(input_ids=tokens_1T, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        logits_V: Tensor = output.logits[0, -1]
        return logits_V


def _prompt_ids(chat: ChatModel, prompt: Prompt) -> list[int]:
    text = render(prompt.messages, chat.tokenizer, open_answer=True)
    # As in training: the template writes every special token itself.
    ids: list[int] = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise BadData("the conversation is empty; say something")
    if len(ids) >= chat.context_tokens:
        raise TooLong(
            f"the conversation has {len(ids)} tokens, and this model's context holds {chat.context_tokens} with the "
            "answer; leave out early messages"
        )
    return ids
