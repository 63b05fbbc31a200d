"""Sends webhooks' events, signed as Standard Webhooks says: https://www.standardwebhooks.com.

In threads of its own: a receiver that answers slowly must not keep a job waiting. Every scheduler sends, leader or not,
for the database gives each delivery to one of them at a time.
"""

import json
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from importlib.metadata import version
from types import TracebackType
from typing import Self

from bitsmith_core.clock import utc_now
from bitsmith_core.db import Database
from bitsmith_core.delivery import deliveries, egress, webhooks
from bitsmith_core.delivery.deliveries import Due
from bitsmith_core.errors import DatabaseUnavailable, Invalid
from bitsmith_core.ids import WebhookId
from bitsmith_core.log import get_logger
from bitsmith_core.settings import WebhookSettings
from standardwebhooks import Webhook

from bitsmith_scheduler.post import NotSent, post

log = get_logger()

USER_AGENT = f"Bitsmith/{version('bitsmith')}"
HANDS = 8  # receivers that are sent to at once
WITHIN_S = 15.0  # for one receiver to answer: what takes longer should be done after answering
LEASE = timedelta(minutes=2)  # far longer than one attempt, resolving the name included
IDLE_S = 0.5  # between two looks for what is due
OUTAGE_S = 5.0
KEEP = timedelta(days=30)
PRUNE_EVERY_S = 3600.0


class Deliverer:
    """Sends what is due from when the block is entered until it is left; what is under way then is finished."""

    def __init__(self, database: Database, settings: WebhookSettings, *, within_s: float = WITHIN_S) -> None:
        self._database, self._allowed, self._within_s = database, settings.allowed_networks, within_s
        self._tls = ssl.create_default_context()
        self._stop, self._is_free = threading.Event(), threading.Event()
        self._busy: set[WebhookId] = set()
        self._busy_lock = threading.Lock()
        self._prune_at = time.monotonic()
        self._hands = ThreadPoolExecutor(HANDS, thread_name_prefix="deliver")
        self._loop = threading.Thread(target=self._run, name="deliveries")

    def __enter__(self) -> Self:
        self._loop.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._is_free.set()
        self._loop.join()
        self._hands.shutdown()

    def _run(self) -> None:
        is_outage = False
        while not self._stop.is_set():
            self._is_free.clear()
            try:
                took = self._take()
                self._prune()
                is_outage = False
            except DatabaseUnavailable as error:
                if not is_outage:  # once per outage
                    log.warning("deliveries.database_unavailable", reason=str(error))
                took, is_outage = 0, True
            except Exception:  # the thread's outermost edge: without it nothing would ever be sent again
                log.exception("deliveries.broke")
                took, is_outage = 0, True
            # A hand that gets free looks again at once, for its webhook may have more.
            if not took:
                self._is_free.wait(OUTAGE_S if is_outage else IDLE_S)

    def _take(self) -> int:
        with self._busy_lock:
            busy = set(self._busy)
        if len(busy) == HANDS:
            return 0
        with self._database.transaction() as tx:
            taken = deliveries.take(tx, limit=HANDS - len(busy), lease=LEASE, busy=busy)
        for due in taken:
            with self._busy_lock:
                self._busy.add(due.webhook_id)
            self._hands.submit(self._deliver, due).add_done_callback(self._on_done(due))
        return len(taken)

    def _on_done(self, due: Due) -> Callable[[Future[None]], None]:
        def on_done(done: Future[None]) -> None:
            with self._busy_lock:
                self._busy.discard(due.webhook_id)
            self._is_free.set()
            if (error := done.exception()) is not None:  # it is due again when its lease is over
                log.error("delivery.broke", delivery_id=due.id, error=f"{type(error).__name__}: {error}")

        return on_done

    def _deliver(self, due: Due) -> None:
        try:
            status = self._send(due)
        except (NotSent, Invalid) as error:
            self._failed(due, str(error), None)
            return
        if 200 <= status < 300:
            with self._database.transaction() as tx:
                deliveries.delivered(tx, due, response_status=status)
            log.info("delivery.delivered", delivery_id=due.id, webhook_id=due.webhook_id, attempt=due.attempt)
        elif status == 410:
            with self._database.transaction() as tx:
                deliveries.gone(tx, due, response_status=status)
            log.warning("webhook.disabled", webhook_id=due.webhook_id, reason="410 Gone")
        else:
            hint = "; redirects are not followed" if 300 <= status < 400 else ""
            self._failed(due, f"the receiver answered {status}{hint}", status)

    def _failed(self, due: Due, error: str, status: int | None) -> None:
        with self._database.transaction() as tx:
            next_ = deliveries.failed(tx, due, error=error, response_status=status)
        facts = {"delivery_id": due.id, "webhook_id": due.webhook_id, "attempt": due.attempt}
        log.info("delivery.failed", **facts, reason=error, next=next_)
        if next_ == "disabled":
            log.warning("webhook.disabled", webhook_id=due.webhook_id, reason="it took nothing for three days")

    def _send(self, due: Due) -> int:
        target = egress.target(due.url, allowed=self._allowed)
        body = json.dumps(due.payload, separators=(",", ":"), ensure_ascii=False)
        now = utc_now()
        headers = {
            "Content-Type": "application/json",
            "Connection": "close",
            "User-Agent": USER_AGENT,
            "webhook-id": due.id,  # the same at every attempt, so that a receiver can drop what it has had
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(
                Webhook(secret).sign(msg_id=due.id, timestamp=now, data=body) for secret in due.secrets
            ),
        }
        return post(target, body.encode(), headers, allowed=self._allowed, within_s=self._within_s, tls=self._tls)

    def _prune(self) -> None:
        if time.monotonic() < self._prune_at:
            return
        with self._database.transaction() as tx:
            pruned = deliveries.prune(tx, older_than=KEEP)
            webhooks.forget_previous_secrets(tx)
        self._prune_at = time.monotonic() + PRUNE_EVERY_S
        if pruned:
            log.info("deliveries.pruned", rows=pruned)
