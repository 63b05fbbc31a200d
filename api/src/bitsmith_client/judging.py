"""Pairwise judging: contestants answer prompts, a judge compares each pair in both orders, verdicts are kept.

Everything is asked from here, of any OpenAI-compatible endpoint, so that a judge's key never leaves this machine. Each
answer and verdict is appended to a file; begun again with the same file, only what is missing is asked.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from bitsmith_client.sdk.transport import Json, Transport

Conversation = list[Json]
Ask = Callable[[Conversation], str]
"""A conversation's answer."""

ANSWER_TIMEOUT_S = 600.0
MOST_TOKENS = 512

TEMPLATE = """You compare two answers to the same request. Which one helps the person who asked more: is it right,
complete, to the point, and in the form that was asked for? Length alone is no merit, and neither is the place where an
answer stands. Think in a few sentences, then end with one line that is exactly one of:

VERDICT: A
VERDICT: B
VERDICT: TIE

<request>
{request}
</request>

<answer A>
{first}
</answer A>

<answer B>
{second}
</answer B>"""

_VERDICT = re.compile(r"VERDICT:\s*\**\s*(A|B|TIE)\b", re.IGNORECASE)
_WINNERS = {"A": "first", "B": "second", "TIE": "tie"}


class BadPrompts(ValueError):
    pass


class OtherRun(ValueError):
    """The file holds another judging."""


def read_prompts(text: str, limit: int | None = None) -> list[Conversation]:
    """Of JSONL: `prompt`, or `messages` whose last answer is left out.

    Raises:
        BadPrompts: naming the line.
    """
    found: list[Conversation] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            found.append(_conversation(line, number))
    if not found:
        raise BadPrompts("there is no prompt in the file")
    return found[:limit]


def endpoint(url: str, model: str, key: str, **settings: Any) -> Ask:
    """Answers of a model behind any OpenAI-compatible base URL, such as http://host/v1."""
    transport = Transport(url, key)

    def ask(conversation: Conversation) -> str:
        body = {"model": model, "messages": conversation, **settings}
        answer = transport.post("/chat/completions", body, timeout_s=ANSWER_TIMEOUT_S)
        return str(answer["choices"][0]["message"]["content"] or "")

    return ask


def winner_of(judgement: str) -> str | None:
    """What the last verdict line says; None: there is none."""
    found = _VERDICT.findall(judgement)
    return _WINNERS[found[-1].upper()] if found else None


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Judging:
    """One run, as its file has it."""

    def __init__(self, file: Path, *, prompts: Sequence[Conversation], contestants: Sequence[str], judge: str) -> None:
        """
        Raises:
            OtherRun: the file belongs to other prompts, contestants, or another judge.
        """
        self._file, self._prompts, self._contestants = file, prompts, contestants
        self._answers: dict[tuple[int, int], str] = {}
        self._verdicts: dict[tuple[int, int, int], str | None] = {}
        self.header: Json = {
            "judge": judge,
            "prompts_sha256": digest(list(prompts)),
            "template_sha256": hashlib.sha256(TEMPLATE.encode()).hexdigest(),
            "contestants": list(contestants),
        }
        if file.exists() and file.stat().st_size:
            self._read()
        else:
            self._append(self.header)

    @property
    def total(self) -> int:
        """Answers and verdicts, all together."""
        n = len(self._contestants)
        return len(self._prompts) * (n + n * (n - 1))

    @property
    def unreadable(self) -> int:
        """Judgements that ended without a verdict, asked twice."""
        return sum(winner is None for winner in self._verdicts.values())

    def run(self, contestants: Mapping[str, Ask], judge: Ask) -> Iterator[int]:
        """Ask whatever is missing; gives how much is there after each step."""
        pairs = list(permutations(range(len(self._contestants)), 2))
        for prompt in range(len(self._prompts)):
            for number, name in enumerate(self._contestants):
                if (prompt, number) not in self._answers:
                    text = contestants[name](list(self._prompts[prompt]))
                    self._answers[prompt, number] = text
                    self._append({"answer": [prompt, number], "text": text})
                yield self._done
            for first, second in pairs:
                if (prompt, first, second) not in self._verdicts:
                    winner = self._judged(prompt, first, second, judge)
                    self._verdicts[prompt, first, second] = winner
                    self._append({"verdict": [prompt, first, second], "winner": winner})
                yield self._done

    def request(self, title: str) -> Json:
        """What `POST /v1/judgements` takes."""
        verdicts = [
            {"prompt": prompt, "first": first, "second": second, "winner": winner}
            for (prompt, first, second), winner in sorted(self._verdicts.items())
            if winner is not None
        ]
        return {"title": title, **self.header, "verdicts": verdicts}

    @property
    def _done(self) -> int:
        return len(self._answers) + len(self._verdicts)

    def _judged(self, prompt: int, first: int, second: int, judge: Ask) -> str | None:
        request = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in self._prompts[prompt])
        places = {
            "{request}": request,
            "{first}": self._answers[prompt, first],
            "{second}": self._answers[prompt, second],
        }
        # One pass: an answer that contains "{second}" stays as it is.
        asked = re.sub(r"\{(request|first|second)\}", lambda match: places[match[0]], TEMPLATE)
        for _ in range(2):
            if (winner := winner_of(judge([{"role": "user", "content": asked}]))) is not None:
                return winner
        return None

    def _read(self) -> None:
        with self._file.open(encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines if line.endswith("\n")]  # a torn last line is asked again
        if not found or found[0] != self.header:
            raise OtherRun(f"{self._file} belongs to other prompts, contestants or another judge; name another file")
        for line in found[1:]:
            if "answer" in line:
                prompt, number = line["answer"]
                self._answers[prompt, number] = line["text"]
            else:
                prompt, first, second = line["verdict"]
                self._verdicts[prompt, first, second] = line["winner"]
        self._file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found), encoding="utf-8")

    def _append(self, line: Json) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _conversation(line: str, number: int) -> Conversation:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadPrompts(f"line {number} is not JSON: {error.msg}") from error
    if isinstance(record, dict) and isinstance(record.get("prompt"), str):
        return [{"role": "user", "content": record["prompt"]}]
    turns = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(turns, list) or not turns:
        raise BadPrompts(f"line {number} has neither a prompt nor messages")
    asked = turns[:-1] if turns[-1].get("role") == "assistant" else turns
    if not asked or asked[-1].get("role") != "user":
        raise BadPrompts(f"line {number} asks nothing: its last message before the answer is not the user's")
    return [{"role": turn["role"], "content": turn["content"]} for turn in asked]
