"""HTTP: the one importer of httpx. Retries what is safe to repeat, and turns every failure into an SdkError."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bitsmith_client.sdk.errors import ApiError, Disconnected, Problem, Unreachable

Json = dict[str, Any]
Query = Mapping[str, str | int | bool | list[str]]

TIMEOUT_S = 30.0
TRIES = 4  # 0.3 + 0.6 + 1.2 s: a restarting server is back by then, a person is not yet bored
FIRST_DELAY_S = 0.3
MAX_DELAY_S = 10.0
RETRIED = frozenset({429, 502, 503, 504})

QUIET_S = 60.0  # a stream says something (an event or a comment) more often than this, or its connection is dead
CHUNK_BYTES = 1 << 20
RANGE_BYTES = 16 << 20  # one GET; a server may hold it in memory whole


class Transport:
    def __init__(self, base_url: str, api_key: str, *, project: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        timeout = httpx.Timeout(TIMEOUT_S, connect=5)
        headers = {"Authorization": f"Bearer {api_key}"}
        if project is not None:
            headers["X-Bitsmith-Project"] = project
        self._api = httpx.Client(
            base_url=self.base_url,
            headers=headers,
            timeout=timeout,
            trust_env=False,  # a proxy for the internet is none for a server on this machine
        )
        # Download links carry their own signature; a second credential makes an S3 server refuse them.
        self._links = httpx.Client(timeout=timeout, follow_redirects=True, trust_env=False)

    def close(self) -> None:
        self._api.close()
        self._links.close()

    def get(self, path: str, query: Query | None = None) -> Json:
        return self._answer("GET", path, may_repeat=True, params=query)

    def post(
        self,
        path: str,
        body: Json | None = None,
        query: Query | None = None,
        *,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Json:
        """Repeated after a broken connection only under an idempotency key."""
        request: dict[str, Any] = {"json": body, "params": query, "timeout": httpx.Timeout(timeout_s, connect=5)}
        headers = {"Idempotency-Key": key} if key is not None else {}
        return self._answer("POST", path, may_repeat=key is not None, headers=headers, **request)

    def patch(self, path: str, body: Json, *, if_match: str | None = None) -> Json:
        headers = {} if if_match is None else {"If-Match": if_match}
        return self._answer("PATCH", path, may_repeat=False, json=body, headers=headers)

    def put(self, path: str, body: Json, *, headers: Mapping[str, str]) -> Json:
        return self._answer("PUT", path, may_repeat=False, json=body, headers=dict(headers))

    def delete(self, path: str, *, if_match: str | None = None) -> Json:
        headers = {} if if_match is None else {"If-Match": if_match}
        return self._answer("DELETE", path, may_repeat=False, headers=headers)

    def post_file(self, path: str, file: Path, fields: Mapping[str, str]) -> Json:
        with file.open("rb") as content:
            files = {"file": (file.name, content, "application/jsonl")}
            return self._answer("POST", path, may_repeat=False, files=files, data=fields, timeout=300.0)

    def redirect(self, path: str) -> str:
        """Where the address leads to; nothing is fetched from there, for the key must not go along.

        Raises:
            ApiError: it leads nowhere.
        """
        response = self._response("GET", path, may_repeat=True, accepted=frozenset({307}))
        return str(response.headers["Location"])

    def put_link(self, url: str, content: bytes) -> None:
        """Send bytes to where a link leads. Repeated after a broken connection: the same bytes to the same place.

        Raises:
            ApiError: the link has expired.
            Disconnected: the server stayed away.
        """
        delay_s = FIRST_DELAY_S
        for left in reversed(range(TRIES)):
            try:
                response = self._links.put(url, content=content, timeout=300.0)
            except httpx.TransportError as error:
                if not left:
                    raise self._link_failed(url, error) from error
            else:
                if response.is_success:
                    return
                if not left or response.status_code < 500:
                    raise self._link_refused(response, "upload")
            time.sleep(min(delay_s, MAX_DELAY_S))
            delay_s *= 2

    def is_ok(self, path: str) -> bool:
        """Whether the server says 200; False for any other answer and for none."""
        try:
            return self._api.get(path, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def text(self, path: str) -> str:
        return self._response("GET", path, may_repeat=True).text

    def text_and_header(self, path: str, query: Query, *, header: str) -> tuple[str, str | None]:
        response = self._response("GET", path, may_repeat=True, params=query)
        return response.text, response.headers.get(header)

    def _answer(self, method: str, path: str, *, may_repeat: bool, **request: Any) -> Json:
        response = self._response(method, path, may_repeat=may_repeat, **request)
        try:
            answer: Json = response.json()
        except ValueError as error:
            raise Unreachable(self.base_url, "what answers there is not Bitsmith") from error
        return answer

    def _response(
        self, method: str, path: str, *, may_repeat: bool, accepted: frozenset[int] = frozenset(), **request: Any
    ) -> httpx.Response:
        delay_s = FIRST_DELAY_S
        for left in reversed(range(TRIES if may_repeat else 1)):
            try:
                response = self._api.request(method, path, **request)
            except httpx.TransportError as error:
                if not left:
                    raise self._unreachable(error) from error
            else:
                if response.is_success or response.status_code in accepted:
                    return response
                if not left or response.status_code not in RETRIED or response.headers.get("X-Should-Retry") == "false":
                    raise api_error(response)
                delay_s = max(delay_s, _retry_after_s(response))
            time.sleep(min(delay_s, MAX_DELAY_S))
            delay_s *= 2
        raise AssertionError("the last try returns or raises")

    def _unreachable(self, error: httpx.TransportError) -> Unreachable | Disconnected:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
            return Unreachable(self.base_url, str(error) or type(error).__name__)
        return Disconnected(f"the connection to {self.base_url} broke: {str(error) or type(error).__name__}")

    @contextmanager
    def lines(self, path: str, *, last_event_id: int) -> Iterator[Iterator[str]]:
        """The lines of an event stream, as they come.

        Raises:
            Disconnected, Unreachable: now, or while the lines are read.
        """
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last_event_id)}
        with self._streamed("GET", path, headers=headers) as found:
            yield found

    @contextmanager
    def post_lines(self, path: str, body: Json) -> Iterator[Iterator[str]]:
        """The lines that answer a body, as they come. Raises as `lines` does; leaving early hangs up."""
        with self._streamed("POST", path, json=body) as found:
            yield found

    @contextmanager
    def _streamed(self, method: str, path: str, **request: Any) -> Iterator[Iterator[str]]:
        try:
            with self._api.stream(method, path, timeout=httpx.Timeout(QUIET_S, connect=5), **request) as response:
                if not response.is_success:
                    response.read()
                    raise api_error(response)
                yield response.iter_lines()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    @contextmanager
    def link(self, url: str, *, offset: int, total_bytes: int) -> Iterator[tuple[bool, Iterator[bytes]]]:
        """A range of what a download link leads to, from offset; (False, everything) if the server ignores ranges.

        Raises:
            ApiError: the link has expired, or its object is gone.
            Disconnected: now, or while the bytes are read.
        """
        last = min(offset + RANGE_BYTES, total_bytes) - 1
        headers = {"Range": f"bytes={offset}-{last}", "Accept-Encoding": "identity"} if total_bytes else {}
        try:
            with self._links.stream("GET", url, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    raise self._link_refused(response, "download")
                yield response.status_code == 206, response.iter_bytes(CHUNK_BYTES)
        except httpx.TransportError as error:
            raise self._link_failed(url, error) from error

    @staticmethod
    def _link_refused(response: httpx.Response, what: str) -> ApiError:
        where = f"{response.url.host}:{response.url.port}"
        detail = f"the object store at {where} refused the {what} link"
        return ApiError(status=response.status_code, code=f"{what}_refused", detail=detail)

    @staticmethod
    def _link_failed(url: str, error: httpx.TransportError) -> Disconnected:
        where = httpx.URL(url)
        reason = str(error) or type(error).__name__
        return Disconnected(f"the object store at {where.host}:{where.port} did not answer: {reason}")


def api_error(response: httpx.Response) -> ApiError:
    """problem+json as an error; anything else as well as it can be understood."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    problems = [
        Problem(pointer=str(p.get("pointer", "")), code=str(p.get("code", "")), detail=str(p.get("detail", "")))
        for p in body.get("errors", [])
        if isinstance(p, dict)
    ]
    return ApiError(
        status=response.status_code,
        code=str(body.get("code", "unknown")),
        detail=str(body.get("detail") or body.get("title") or f"the server answered {response.status_code}"),
        problems=problems,
        request_id=body.get("request_id"),
    )


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("Retry-After", "0"))
    except ValueError:  # a date; our own delay will do
        return 0.0
