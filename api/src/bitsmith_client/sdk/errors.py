"""What can go wrong between a client and the platform, in words that say what to do.

SdkError
|-- ApiError          the server answered, and said no
|-- Unreachable       nobody answers at the URL
|-- Disconnected      a connection broke more often than we are willing to repeat
`-- CorruptDownload   the bytes are not those the registry promises
"""

from collections.abc import Sequence
from dataclasses import dataclass


class SdkError(Exception):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One place in the request that is wrong."""

    pointer: str
    code: str
    detail: str


class ApiError(SdkError):
    def __init__(
        self,
        *,
        status: int,
        code: str,
        detail: str,
        problems: Sequence[Problem] = (),
        request_id: str | None = None,
    ) -> None:
        self.status, self.code, self.detail = status, code, detail
        self.problems, self.request_id = tuple(problems), request_id
        super().__init__(self._text())

    def _text(self) -> str:
        places = [f"{p.pointer}: {p.detail}" for p in self.problems if p.detail not in self.detail]
        text = "; ".join([self.detail, *places])
        if self.status == 401:
            text += " (give the server's key with --key or BITSMITH_API_KEY)"
        if self.status >= 500:
            text += f" (HTTP {self.status}; request {self.request_id or 'without an id'}; the server's log says more)"
        return text


class Unreachable(SdkError):
    def __init__(self, base_url: str, reason: str) -> None:
        super().__init__(
            f"no server answers at {base_url} ({reason}); start one with `bitsmith up`, "
            "or name another with --url or BITSMITH_URL"
        )
        self.base_url = base_url


class Disconnected(SdkError):
    pass


class CorruptDownload(SdkError):
    pass
