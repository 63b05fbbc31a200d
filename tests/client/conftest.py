"""A real platform from `Stack` for the whole run, and tiny HTTP servers that misbehave on purpose."""

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bitsmith_client.lab import servers
from bitsmith_client.lab.stack import Stack
from bitsmith_client.lab.state import LabState
from bitsmith_client.sdk import Bitsmith


@dataclass
class Request:
    """What the server received, and the means to answer it."""

    method: str
    path: str
    headers: dict[str, str]
    handler: BaseHTTPRequestHandler
    body: bytes = b""

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.handler.send_response(status)
        self.handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(body)

    def answer_json(self, status: int, body: object, **headers: str) -> None:
        self.answer(status, json.dumps(body).encode(), **headers)

    def stream(self, *texts: str) -> None:
        """Say these and hang up; without a length a client cannot tell a broken stream from a finished one."""
        self.handler.send_response(200)
        self.handler.send_header("Content-Type", "text/event-stream")
        self.handler.end_headers()
        for text in texts:
            self.handler.wfile.write(text.encode())
            self.handler.wfile.flush()

    def hang_up(self) -> None:
        self.handler.close_connection = True
        self.handler.connection.close()


@dataclass
class TinyServer:
    url: str
    requests: list[Request] = field(default_factory=list)


Serve = Callable[[Callable[[Request, int], None]], TinyServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(answer) runs a server; answer gets each request and how many came before it."""
    running: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[Request, int], None]) -> TinyServer:
        tiny = TinyServer("")

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                request = Request(self.command, self.path, dict(self.headers.items()), self, body)
                before = len(tiny.requests)
                tiny.requests.append(request)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    answer(request, before)

            do_GET = do_POST = _any  # noqa: N815 - the names that http.server looks for

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer((servers.LOOPBACK, 0), Handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        tiny.url = f"http://{servers.LOOPBACK}:{server.server_address[1]}"
        return tiny

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def client() -> Iterator[Callable[[str], Bitsmith]]:
    with contextlib.ExitStack() as opened:
        yield lambda url: opened.enter_context(Bitsmith(url, "key"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole platform, shared: tests leave it as they find it, or wait until it has healed."""
    state = LabState(tmp_path_factory.mktemp("lab") / "state")
    state.prepare()
    (state.models / "unusable").mkdir()
    (state.models / "unusable" / "config.json").write_text("{}")
    with Stack(state, api_port=servers.free_port()) as stack:
        yield stack
    shutil.rmtree(stack.config.postgres_folder)  # as root it lies outside of pytest's folder


@pytest.fixture
def bitsmith(lab: Stack) -> Iterator[Bitsmith]:
    with Bitsmith(lab.config.url, lab.config.api_key) as client:
        yield client


RECORDS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n} + {n}?"},
            {"role": "assistant", "content": f"It is {2 * n}."},
        ]
    }
    for n in range(20)
]


@pytest.fixture
def training_file(tmp_path: Path) -> Path:
    path = tmp_path / "training.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[:16]))
    return path


@pytest.fixture
def validation_file(tmp_path: Path) -> Path:
    path = tmp_path / "validation.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[16:]))
    return path
