"""One trace from a client's request to the engine's stages, as a collector gets it from four real processes."""

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from bitsmith_client.lab import servers
from bitsmith_core.jobs import JobStatus
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.worker.conftest import ENGINE, Platform, until

KEY = "key-for-tests-0123456789"
TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What an OpenTelemetry collector has heard."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []  # service, span

    def add(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            names = {item.key: item.value.string_value for item in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]

    def of_trace(self) -> dict[str, Span]:
        return {f"{service}: {span.name}": span for service, span in self.spans if span.trace_id.hex() == TRACE}


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.add(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield collector, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as (collector, address):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # milliseconds
        yield collector


def serve(platform: Platform) -> httpx.Client:
    port = servers.free_port()
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/livez").status_code == 200
        except httpx.TransportError:
            return False

    child = platform._start(
        "api",
        [sys.executable, "-m", "bitsmith_api"],
        {"BITSMITH_API_KEY": KEY, "BITSMITH_API_PORT": str(port)},
        answers,
    )
    child.wait_ready()
    return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"})


def submit(client: httpx.Client, **metadata: str) -> str:
    """Submit a job as part of the client's own trace."""
    files = {}
    for name in ("training", "validation"):
        content = (f"{name}.jsonl", b'{"prompt": "2 + 2?", "completion": "4"}\n')
        answer = client.post("/v1/files", files={"file": content}, data={"purpose": "fine-tune"})
        files[f"{name}_file"] = answer.json()["id"]
    answer = client.post(
        "/v1/fine_tuning/jobs",
        json={"model": "local:base", **files, "metadata": metadata},
        headers={"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"},
    )
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def test_a_job_is_one_trace_from_the_request_to_the_engine(platform: Platform, collector: Collector) -> None:
    seen = platform.folder / "traceparent"
    engine = ["/bin/sh", "-c", f'echo "$TRACEPARENT" > {seen}; exec "$@"', "sh", sys.executable, str(ENGINE)]
    platform.scheduler()
    platform.worker(BITSMITH_WORKER_ENGINE=json.dumps(engine))
    with serve(platform) as client:
        job_id = submit(client)
        platform.until_status(job_id, JobStatus.SUCCEEDED)  # type: ignore[arg-type]  # a job's id is text

        expected = [  # (span, its parent)
            ("bitsmith-api: POST /v1/fine_tuning/jobs", None),
            ("bitsmith-api: job.submit", "bitsmith-api: POST /v1/fine_tuning/jobs"),
            ("bitsmith-scheduler: job.offer", "bitsmith-api: job.submit"),
            ("bitsmith-worker: job.claim", "bitsmith-scheduler: job.offer"),
            ("bitsmith-worker: job.attempt", "bitsmith-scheduler: job.offer"),
            ("bitsmith-worker: stage.fetching", "bitsmith-worker: job.attempt"),
            ("bitsmith-worker: stage.measuring", "bitsmith-worker: job.attempt"),
            ("bitsmith-worker: stage.training", "bitsmith-worker: job.attempt"),
            ("bitsmith-worker: stage.publishing", "bitsmith-worker: job.attempt"),
        ]
        until(lambda: len(collector.of_trace()) >= len(expected), what="every span")
    spans = collector.of_trace()
    assert spans.keys() == {name for name, _ in expected}
    for name, parent in expected:
        wanted = bytes.fromhex(CLIENT_SPAN) if parent is None else spans[parent].span_id
        assert spans[name].parent_span_id == wanted, name
        assert spans[name].start_time_unix_nano <= spans[name].end_time_unix_nano
    attempt = spans["bitsmith-worker: job.attempt"]
    assert seen.read_text().strip() == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert {item.key: item.value.string_value for item in attempt.attributes}["job.id"] == job_id


def test_a_failed_attempt_is_a_failed_span_and_says_why(platform: Platform, collector: Collector) -> None:
    platform.scheduler()
    platform.worker()
    with serve(platform) as client:
        job_id = submit(client, act="fail", failure="data")
        platform.until_status(job_id, JobStatus.FAILED)  # type: ignore[arg-type]  # a job's id is text
        until(lambda: "bitsmith-worker: job.attempt" in collector.of_trace(), what="the attempt's span")
    spans = collector.of_trace()
    for name in ("bitsmith-worker: job.attempt", "bitsmith-worker: stage.training"):
        assert spans[name].status.code == Status.STATUS_CODE_ERROR
    assert spans["bitsmith-worker: job.attempt"].status.message.startswith("data: ")
    assert spans["bitsmith-worker: stage.measuring"].status.code == Status.STATUS_CODE_UNSET


def test_a_collector_that_is_away_keeps_no_job_waiting(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{servers.free_port()}")
    platform.scheduler()
    platform.worker()
    with serve(platform) as client:
        for _ in range(2):
            job_id = submit(client)
            platform.until_status(job_id, JobStatus.SUCCEEDED)  # type: ignore[arg-type]  # a job's id is text
