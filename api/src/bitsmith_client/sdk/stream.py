"""Server-sent events as the WHATWG describes them: lines in, messages out. An unfinished message is no message."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    id: str
    event: str
    data: str


def messages(lines: Iterable[str]) -> Iterator[Message]:
    id_, event, data = "", "", list[str]()
    for line in lines:
        if not line:
            if data:
                yield Message(id=id_, event=event or "message", data="\n".join(data))
            event, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "id":
                id_ = value
            case "event":
                event = value
            case "data":
                data.append(value)
            case _:  # a comment (the field is empty) keeps the connection alive; `retry` is ours to decide
                pass
