"""From tokens to text that may be shown at once: whole characters only, and nothing of a stop sequence."""

from collections.abc import Sequence

from bitsmith_engine.data.examples import Tokenizer

_UNFINISHED = "\ufffd"  # what decoders put for bytes that are no character yet


class Detokenizer:
    """Tokens in, text out as soon as it is certain.

    Decoders look at neighbours (spaces, joined bytes), so a token is decoded together with those that came shortly
    before, and what is new is what grew.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # of the context that new tokens are decoded in
        self._said = 0  # ids whose text is out

    def push(self, token: int) -> str:
        self._ids.append(token)
        before, now = self._decode(self._ids[self._start : self._said]), self._decode(self._ids[self._start :])
        if now.endswith(_UNFINISHED) or len(now) <= len(before):
            return ""
        self._start, self._said = self._said, len(self._ids)
        return now[len(before) :]

    def flush(self) -> str:
        """What is left when no token will follow, broken characters included."""
        before, now = self._decode(self._ids[self._start : self._said]), self._decode(self._ids[self._start :])
        self._start = self._said = len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class StopFinder:
    """Passes text on up to the first stop sequence, which is never shown; holds back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_found = False

    def push(self, text: str) -> str:
        if self.is_found:
            return ""
        held = self._held + text
        places = [place for place in (held.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self.is_found = True
            self._held = ""
            return held[: min(places)]
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back, when no text will follow."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The longest end of text that begins stop."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if stop.startswith(text[-length:])), 0)
