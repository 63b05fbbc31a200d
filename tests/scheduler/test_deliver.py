"""What a webhook's receiver is promised, over real sockets: a signature it can check, patience, and no way inside."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import openai
import pytest
from bitsmith_core import delivery
from bitsmith_core.db import Database
from bitsmith_core.delivery import EventType, deliveries, egress, webhooks
from bitsmith_core.delivery.deliveries import WebhookDelivery
from bitsmith_core.delivery.webhooks import Webhook
from bitsmith_core.ids import DEFAULT_PROJECT, WebhookId
from bitsmith_core.settings import DatabaseSettings, WebhookSettings
from bitsmith_scheduler.deliver import Deliverer
from bitsmith_scheduler.post import NotSent, post
from openai.types import webhooks as openai_webhooks
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from tests.scheduler.test_scheduler import through
from tests.worker.conftest import port_of, until
from tests.worker.gate import Gate

LOOPBACK = WebhookSettings(allowed_networks=(ip_network("127.0.0.0/8"),))


@dataclass
class Heard:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Somebody's server. `statuses` are answered in turn, the last one for good."""

    port: int
    statuses: list[int]
    heard: list[Heard] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)  # answers wait for it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?tenant=7"


@contextmanager
def receiving(*statuses: int, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.heard.append(Heard(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            assert receiver.hold.wait(30)
            status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver = Receiver(port=server.server_address[1], statuses=list(statuses))
    receiver.hold.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


_OF_OPENAI = {
    EventType.JOB_SUCCEEDED: openai_webhooks.FineTuningJobSucceededWebhookEvent,
    EventType.JOB_FAILED: openai_webhooks.FineTuningJobFailedWebhookEvent,
    EventType.JOB_CANCELLED: openai_webhooks.FineTuningJobCancelledWebhookEvent,
}


def subscribe(database: Database, url: str, *events: EventType) -> Webhook:
    with database.transaction() as tx:
        return webhooks.create(tx, project=DEFAULT_PROJECT, url=url, events=events)


def emit(database: Database, target: str = "ftjob-1", type: EventType = EventType.JOB_SUCCEEDED) -> None:
    with database.transaction() as tx:
        delivery.emit(tx, project=DEFAULT_PROJECT, type=type, target=target)


def rows(database: Database, webhook_id: WebhookId) -> list[WebhookDelivery]:
    with database.transaction() as tx:
        return deliveries.page(tx, webhook_id, limit=100)


def until_tried(database: Database, webhook: Webhook, *, attempts: int = 1) -> WebhookDelivery:
    """Wait until its one delivery was tried so often and the last try is over; answers the delivery."""

    def is_over() -> bool:
        (row,) = rows(database, webhook.id)
        return row.attempts >= attempts and (row.status != "pending" or row.error is not None)

    until(is_over, what=f"attempt {attempts}")
    (row,) = rows(database, webhook.id)
    return row


def make_due(database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(text("UPDATE webhook_deliveries SET next_attempt_at = now(), error = NULL"))


@contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that says whatever `talk` says to its one client; answers its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client, suppress(OSError):
                client.recv(65536)
                talk(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def post_to(url: str, *, allowed: egress.Networks = LOOPBACK.allowed_networks, within_s: float = 5.0) -> int:
    target = egress.target(url, allowed=allowed or [ip_network("10.0.0.0/8")])
    return post(target, b"{}", {}, allowed=allowed, within_s=within_s, tls=ssl.create_default_context())


def test_a_receiver_can_check_who_sent_what_it_got(database: Database) -> None:
    with receiving(204) as receiver:
        webhook = subscribe(database, receiver.url)
        emit(database, "ftjob-7")
        with Deliverer(database, LOOPBACK):
            row = until_tried(database, webhook)
    (heard,) = receiver.heard
    event = Verifier(webhook.secret).verify(heard.body, heard.headers)
    assert event["type"] == "fine_tuning.job.succeeded"
    assert event["data"] == {"id": "ftjob-7"}
    assert heard.path == "/hook?tenant=7"
    assert heard.headers["webhook-id"] == row.id
    assert heard.headers["content-type"] == "application/json"
    assert heard.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert (row.status, row.response_status, row.attempts) == ("delivered", 204, 1)

    with pytest.raises(WebhookVerificationError):
        Verifier(webhook.secret).verify(heard.body.replace(b"ftjob-7", b"ftjob-8"), heard.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier("whsec_" + "A" * 43 + "=").verify(heard.body, heard.headers)


def test_a_receiver_may_check_with_the_new_secret_or_the_one_before(database: Database) -> None:
    with receiving(204) as receiver:
        webhook = subscribe(database, receiver.url)
        before = webhook.secret
        with database.transaction() as tx:
            after = webhooks.replace_secret(tx, webhook.id).secret
        emit(database)
        with Deliverer(database, LOOPBACK):
            until_tried(database, webhook)
    (heard,) = receiver.heard
    for secret in (before, after):
        Verifier(secret).verify(heard.body, heard.headers)
        with openai.OpenAI(api_key="unused", webhook_secret=secret) as client:
            assert client.webhooks.unwrap(heard.body, heard.headers).type == "fine_tuning.job.succeeded"


@pytest.mark.parametrize("kind", _OF_OPENAI)
def test_openai_s_client_reads_it(database: Database, kind: EventType) -> None:
    with receiving(200) as receiver:
        webhook = subscribe(database, receiver.url)
        emit(database, "ftjob-7", kind)
        with Deliverer(database, LOOPBACK):
            until_tried(database, webhook)
    (heard,) = receiver.heard
    with openai.OpenAI(api_key="unused", webhook_secret=webhook.secret) as client:
        event = client.webhooks.unwrap(heard.body, heard.headers)
    assert isinstance(event, _OF_OPENAI[kind])
    assert event.type == kind
    assert event.object == "event"
    assert event.data.id == "ftjob-7"


def test_a_receiver_that_fails_is_tried_again_with_the_same_id(database: Database) -> None:
    with receiving(500, 503, 200) as receiver:
        webhook = subscribe(database, receiver.url)
        emit(database)
        with Deliverer(database, LOOPBACK):
            row = until_tried(database, webhook)
            assert (row.status, row.response_status, row.error) == ("pending", 500, "the receiver answered 500")
            make_due(database)
            assert until_tried(database, webhook, attempts=2).response_status == 503
            make_due(database)
            row = until_tried(database, webhook, attempts=3)
    assert (row.status, row.response_status, row.error) == ("delivered", 200, None)
    assert {heard.headers["webhook-id"] for heard in receiver.heard} == {row.id}
    assert len(receiver.heard) == 3
    for heard in receiver.heard:
        Verifier(webhook.secret).verify(heard.body, heard.headers)


def test_a_receiver_that_is_not_there_is_tried_again(database: Database) -> None:
    with receiving(200) as receiver:
        url = receiver.url
    webhook = subscribe(database, url)
    emit(database)
    with Deliverer(database, LOOPBACK):
        row = until_tried(database, webhook)
    assert row.status == "pending"
    assert "refused" in (row.error or "")


def test_redirects_are_not_followed(database: Database) -> None:
    with receiving(302) as receiver:
        webhook = subscribe(database, receiver.url)
        emit(database)
        with Deliverer(database, LOOPBACK):
            row = until_tried(database, webhook)
    assert (row.status, row.response_status) == ("pending", 302)
    assert "redirects are not followed" in (row.error or "")
    assert len(receiver.heard) == 1


def test_a_receiver_that_is_gone_is_not_sent_to_again(database: Database) -> None:
    with receiving(410) as receiver:
        webhook = subscribe(database, receiver.url)
        emit(database)
        with Deliverer(database, LOOPBACK):
            assert until_tried(database, webhook).status == "failed"
            emit(database)
    assert len(rows(database, webhook.id)) == 1
    with database.transaction() as tx:
        assert not webhooks.get(tx, webhook.id).is_enabled


def test_a_receiver_that_hangs_keeps_nobody_else_waiting(database: Database) -> None:
    with receiving(200) as slow, receiving(200) as quick:
        slow.hold.clear()
        hanging, working = subscribe(database, slow.url), subscribe(database, quick.url)
        for number in range(20):
            emit(database, f"ftjob-{number}")
        with Deliverer(database, LOOPBACK):
            until(lambda: len(quick.heard) == 20, what="the quick one's events")
            assert len(slow.heard) == 1  # one at a time
            slow.hold.set()
            until(lambda: all(row.status == "delivered" for row in rows(database, hanging.id)), what="the slow one's")
    assert [row.attempts for row in [*rows(database, hanging.id), *rows(database, working.id)]] == [1] * 40


def test_two_schedulers_send_each_event_once(database: Database) -> None:
    with receiving(200) as receiver:
        for _ in range(6):
            subscribe(database, receiver.url)
        for number in range(10):
            emit(database, f"ftjob-{number}")
        with Deliverer(database, LOOPBACK), Deliverer(database, LOOPBACK):
            until(lambda: len(receiver.heard) >= 60, what="sixty deliveries")
    ids = [heard.headers["webhook-id"] for heard in receiver.heard]
    assert len(ids) == len(set(ids)) == 60


def test_what_a_killed_sender_had_taken_is_sent_by_another(database: Database) -> None:
    with receiving(200) as receiver:
        webhook = subscribe(database, receiver.url)
        emit(database)
        with database.transaction() as tx:
            assert len(deliveries.take(tx, limit=1, lease=timedelta(minutes=2))) == 1
        with Deliverer(database, LOOPBACK):
            time.sleep(1)
            assert receiver.heard == []
            make_due(database)  # two minutes later
            row = until_tried(database, webhook, attempts=2)
    assert row.status == "delivered"


def test_without_a_setting_nothing_inside_is_sent_to(database: Database) -> None:
    with receiving(200) as receiver:
        webhook = subscribe(database, receiver.url.replace("http:", "https:").replace("127.0.0.1", "localhost"))
        emit(database)
        with Deliverer(database, WebhookSettings()):
            row = until_tried(database, webhook)
    assert row.status == "pending"
    assert row.error == "localhost is not at a public address"
    assert receiver.heard == []


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "localhost"])
def test_no_spelling_of_an_inner_address_is_reached(host: str) -> None:
    with receiving(200) as receiver, pytest.raises(NotSent, match="not at a public address"):
        post_to(f"http://{host}:{receiver.port}/", allowed=())
    assert receiver.heard == []


def test_a_name_is_resolved_once_and_what_was_judged_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def rebinding(host: str, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        if host == "rebinding.test":
            host = "127.0.0.1" if asked.count(host) == 1 else "127.0.0.9"
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with receiving(200) as receiver:
        assert post_to(f"http://rebinding.test:{receiver.port}/") == 200
    assert asked.count("rebinding.test") == 1
    assert receiver.heard[0].headers["host"] == f"rebinding.test:{receiver.port}"


def test_an_answer_that_trickles_in_is_cut_off_in_time() -> None:
    def trickle(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            client.sendall(b".")
            time.sleep(0.05)

    began_at = time.monotonic()
    with talking(trickle) as port, pytest.raises(NotSent, match=r"no answer within 0\.5 s"):
        post_to(f"http://127.0.0.1:{port}/", within_s=0.5)
    assert time.monotonic() - began_at < 5


def test_an_answer_that_never_comes_and_one_that_is_no_http_are_named() -> None:
    with talking(lambda client: time.sleep(1.5)) as port, pytest.raises(NotSent, match=r"no answer within 0\.5 s"):
        post_to(f"http://127.0.0.1:{port}/", within_s=0.5)
    with talking(lambda client: client.sendall(b"SSH-2.0-OpenSSH\r\n")) as port, pytest.raises(NotSent, match="Bad"):
        post_to(f"http://127.0.0.1:{port}/")


def test_a_large_answer_is_not_read() -> None:
    sent_bytes = 0

    def flood(client: socket.socket) -> None:
        nonlocal sent_bytes
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while sent_bytes < 1_000_000_000:
            sent_bytes += client.send(b"x" * 65536)

    with talking(flood) as port:
        assert post_to(f"http://127.0.0.1:{port}/") == 200
    assert sent_bytes < 100_000_000


def test_a_certificate_is_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    with receiving(200, tls=server_side) as receiver:
        with pytest.raises(NotSent, match="certificate is not accepted"):
            post_to(f"https://localhost:{receiver.port}/")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert post_to(f"https://localhost:{receiver.port}/") == 200
        with pytest.raises(NotSent, match="certificate is not accepted"):
            post_to(f"https://127.0.0.1:{receiver.port}/")
    assert len(receiver.heard) == 1


def test_deliveries_go_on_after_postgres_was_away(database: Database, database_settings: DatabaseSettings) -> None:
    port = port_of(database_settings.url.get_secret_value())
    with receiving(200) as receiver, Gate(port) as gate, through(gate, database_settings) as cut_off:
        subscribe(database, receiver.url)
        with Deliverer(cut_off, LOOPBACK):
            emit(database, "ftjob-1")
            until(lambda: len(receiver.heard) == 1, what="the first event")
            gate.shut()
            emit(database, "ftjob-2")
            time.sleep(1)
            gate.open()
            until(lambda: len(receiver.heard) == 2, what="the second event")
