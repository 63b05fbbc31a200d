"""Around every request: its id, its line in the log, its place in the metrics, and an answer to the unforeseen."""

import re
import time
from uuid import uuid4

import structlog
from bitsmith_core.log import get_logger
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitsmith_api import errors
from bitsmith_api.metrics import Metrics

HEADER = "X-Request-Id"
CLIENT_LEFT = 499  # nginx' number for a client that did not wait

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
UNLOGGED = {"/livez", "/readyz", "/metrics"}  # asked every few seconds, by machines


class RequestLog:
    """The outermost layer, so that even its 500 carries the request id and is counted."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(HEADER))
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, scope)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, answer.send)
            except ClientDisconnect:
                answer.status = answer.status or CLIENT_LEFT
            except Exception:
                get_logger().exception("request.failed", method=scope["method"], path=scope["path"])
                if answer.status is not None:
                    raise  # half an answer is out; only closing the connection can tell the client
                await errors.unexpected(path=scope["path"], request_id=request_id)(scope, receive, answer.send)
            finally:
                self._record(scope, answer)

    def _record(self, scope: Scope, answer: "_Answer") -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        status = answer.status or CLIENT_LEFT
        self._metrics.observe(method=scope["method"], route=route, status=status, seconds=answer.first_byte_s)
        if scope["path"] not in UNLOGGED:
            get_logger().info(
                "request.answered",
                method=scope["method"],
                path=scope["path"],  # never the query or headers: they may hold what is not ours to keep
                status=status,
                seconds=round(answer.elapsed_s, 4),
                client=scope["client"][0] if scope.get("client") else None,
                actor=caller.actor if (caller := scope["state"].get("caller")) else None,
            )


class _Answer:
    """Watches an answer go out."""

    def __init__(self, send: Send, scope: Scope) -> None:
        self.status: int | None = None
        self._send = send
        self._state = scope["state"]
        self._began_at = time.perf_counter()
        self._first_byte_s: float | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._first_byte_s = self.elapsed_s
            headers = MutableHeaders(scope=message)
            headers[HEADER] = self._state["request_id"]
            for name, value in self._state.get("answer_headers", {}).items():
                headers[name] = value
        await self._send(message)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began_at

    @property
    def first_byte_s(self) -> float:
        return self.elapsed_s if self._first_byte_s is None else self._first_byte_s


def _request_id(sent: str | None) -> str:
    """The client's own, if it is short and harmless, so that its log and ours can be laid side by side."""
    return sent if sent is not None and _SAFE_ID.fullmatch(sent) else uuid4().hex
