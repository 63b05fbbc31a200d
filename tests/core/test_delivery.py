"""What webhooks are promised: an event for what happened, taken by one sender at a time, tried for three days."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from bitsmith_core import delivery, jobs, registry
from bitsmith_core.db import Database, Tx
from bitsmith_core.delivery import EventType, deliveries, webhooks
from bitsmith_core.delivery.deliveries import DELAYS, Due
from bitsmith_core.delivery.webhooks import Webhook
from bitsmith_core.errors import Conflict, NotFound
from bitsmith_core.identity import projects
from bitsmith_core.ids import DEFAULT_PROJECT, ProjectId, WebhookId
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass
from sqlalchemy import text

from tests.api.conftest import MANIFEST

MINUTE = timedelta(minutes=1)


def hook(tx: Tx, *events: EventType, project: ProjectId = DEFAULT_PROJECT) -> Webhook:
    return webhooks.create(tx, project=project, url="https://example.org/hook", events=events)


def told(tx: Tx, webhook: Webhook) -> list[tuple[str, str]]:
    """(type, target) of its events, oldest first."""
    rows = deliveries.page(tx, webhook.id, limit=100)
    return [(row.payload["type"], row.payload["data"]["id"]) for row in reversed(rows)]


def take(tx: Tx, *, limit: int = 10, busy: tuple[WebhookId, ...] = ()) -> list[Due]:
    return deliveries.take(tx, limit=limit, lease=MINUTE, busy=busy)


def make_due(tx: Tx) -> None:
    tx.execute(text("UPDATE webhook_deliveries SET next_attempt_at = now() WHERE status = 'pending'"))


def emit(tx: Tx, target: str = "ftjob-1") -> None:
    delivery.emit(tx, project=DEFAULT_PROJECT, type=EventType.JOB_SUCCEEDED, target=target)
    tx.flush()


def test_a_webhook_hears_what_it_asked_for_in_its_project(tx: Tx) -> None:
    other = projects.create(tx, name="other").id
    everything, failures, elsewhere = hook(tx), hook(tx, EventType.JOB_FAILED), hook(tx, project=other)
    emit(tx, "ftjob-1")
    delivery.emit(tx, project=DEFAULT_PROJECT, type=EventType.JOB_FAILED, target="ftjob-2")
    tx.flush()
    assert told(tx, everything) == [("fine_tuning.job.succeeded", "ftjob-1"), ("fine_tuning.job.failed", "ftjob-2")]
    assert told(tx, failures) == [("fine_tuning.job.failed", "ftjob-2")]
    assert told(tx, elsewhere) == []


def test_an_event_is_one_event_for_all_who_hear_of_it(tx: Tx) -> None:
    first, second = hook(tx), hook(tx)
    emit(tx)
    payloads = [deliveries.page(tx, each.id, limit=1)[0].payload for each in (first, second)]
    assert payloads[0] == payloads[1]
    assert set(payloads[0]) == {"id", "object", "type", "created_at", "data"}


def test_every_end_of_a_job_is_told_and_what_it_published(tx: Tx, spec: JobSpec) -> None:
    webhook = hook(tx)
    succeeds, fails, is_cancelled, is_paused = (jobs.submit(tx, spec, project=DEFAULT_PROJECT).id for _ in range(4))
    tx.expire_all()
    lease = jobs.claim(tx, succeeds, worker="w", ttl=MINUTE)
    assert lease is not None
    registry.blobs.hold(tx, MANIFEST.files)
    registry.publish(tx, project=DEFAULT_PROJECT, name="m", job_id=succeeds, manifest=MANIFEST)
    jobs.finish(tx, lease, result="m@1")
    lease = jobs.claim(tx, fails, worker="w", ttl=MINUTE)
    assert lease is not None
    jobs.fail(tx, lease, Failed(failure=FailureClass.DATA, code="bad", message="Bad."))
    jobs.cancel(tx, is_cancelled)
    jobs.pause(tx, is_paused)
    tx.flush()
    assert Counter(told(tx, webhook)) == Counter(
        [
            ("model.version.published", "m@1"),
            ("fine_tuning.job.succeeded", succeeds),
            ("fine_tuning.job.failed", fails),
            ("fine_tuning.job.cancelled", is_cancelled),
            ("fine_tuning.job.paused", is_paused),
        ]
    )


def test_a_job_that_is_tried_again_is_no_event(tx: Tx, spec: JobSpec) -> None:
    webhook = hook(tx)
    job_id = jobs.submit(tx, spec, project=DEFAULT_PROJECT).id
    tx.expire_all()
    lease = jobs.claim(tx, job_id, worker="w", ttl=MINUTE)
    assert lease is not None
    jobs.fail(tx, lease, Failed(failure=FailureClass.INFRA, code="gone", message="Gone."))
    tx.flush()
    assert told(tx, webhook) == []


def test_what_is_taken_is_nobody_else_s_until_the_lease_is_over(tx: Tx) -> None:
    hook(tx)
    emit(tx)
    (due,) = take(tx)
    assert due.attempt == 1
    assert take(tx) == []
    make_due(tx)
    (again,) = take(tx)
    assert (again.id, again.attempt) == (due.id, 2)


def test_many_senders_at_once_take_each_delivery_once(database: Database) -> None:
    with database.transaction() as tx:
        for _ in range(20):
            hook(tx)
        emit(tx)

    def take_some(_: int) -> list[str]:
        with database.transaction() as tx:
            return [due.id for due in take(tx, limit=5)]

    with ThreadPoolExecutor(8) as senders:
        taken = [id_ for ids in senders.map(take_some, range(24)) for id_ in ids]
    assert len(taken) == len(set(taken)) == 20


def test_a_sender_gets_one_of_each_webhook_and_none_of_those_it_is_busy_with(tx: Tx) -> None:
    slow, quick = hook(tx), hook(tx)
    for number in range(3):
        emit(tx, f"ftjob-{number}")
    assert {due.webhook_id for due in take(tx)} == {slow.id, quick.id}
    assert [due.webhook_id for due in take(tx, busy=(slow.id,))] == [quick.id]


def test_ten_attempts_over_three_days_then_it_is_over(tx: Tx) -> None:
    webhook = hook(tx)
    emit(tx)
    waits_s = []
    for number in range(len(DELAYS) + 1):
        make_due(tx)
        (due,) = take(tx)
        assert due.attempt == number + 1
        ended = deliveries.failed(tx, due, error="no answer", response_status=500)
        wait = text("SELECT extract(epoch FROM next_attempt_at - now()) FROM webhook_deliveries")
        waits_s.append(float(tx.scalar(wait)))
    assert waits_s[:3] == [5, 60, 300]
    assert timedelta(days=3) < sum(DELAYS, timedelta()) < timedelta(days=3, hours=2)
    assert ended == "disabled"
    tx.refresh(webhook)
    assert (webhook.is_enabled, webhook.failures) == (False, 10)
    (row,) = deliveries.page(tx, webhook.id, limit=10)
    tx.refresh(row)
    assert (row.status, row.attempts, row.error, row.response_status) == ("failed", 10, "no answer", 500)


def test_a_webhook_that_took_something_meanwhile_stays_enabled(tx: Tx) -> None:
    webhook = hook(tx)
    emit(tx, "ftjob-stuck")
    tx.execute(text("UPDATE webhook_deliveries SET attempts = 9, created_at = now() - interval '3 d'"))
    (stuck,) = take(tx)
    emit(tx, "ftjob-fine")
    (fine,) = take(tx)
    deliveries.delivered(tx, fine, response_status=200)
    assert deliveries.failed(tx, stuck, error="no answer") == "over"
    tx.refresh(webhook)
    assert webhook.is_enabled


def test_success_ends_the_count_of_failures(tx: Tx) -> None:
    webhook = hook(tx)
    emit(tx)
    (due,) = take(tx)
    deliveries.failed(tx, due, error="no answer")
    make_due(tx)
    (due,) = take(tx)
    deliveries.delivered(tx, due, response_status=204)
    tx.refresh(webhook)
    (row,) = deliveries.page(tx, webhook.id, limit=10)
    tx.refresh(row)
    assert (webhook.failures, row.status, row.error, row.response_status) == (0, "delivered", None, 204)
    assert row.delivered_at is not None


def test_what_a_sender_says_too_late_changes_nothing(tx: Tx) -> None:
    webhook = hook(tx)
    emit(tx)
    (late,) = take(tx)
    make_due(tx)
    (due,) = take(tx)
    deliveries.delivered(tx, due, response_status=200)
    assert deliveries.failed(tx, late, error="no answer") == "over"
    deliveries.gone(tx, late, response_status=410)
    (row,) = deliveries.page(tx, webhook.id, limit=10)
    tx.refresh(row)
    tx.refresh(webhook)
    assert row.status == "delivered"
    assert (webhook.is_enabled, webhook.failures) == (True, 0)


def test_a_receiver_that_is_gone_is_sent_nothing_more(tx: Tx) -> None:
    webhook = hook(tx)
    emit(tx, "ftjob-1")
    emit(tx, "ftjob-2")
    (due,) = take(tx)
    deliveries.gone(tx, due, response_status=410)
    emit(tx, "ftjob-3")
    make_due(tx)
    assert take(tx) == []
    tx.refresh(webhook)
    assert not webhook.is_enabled
    assert [row.status for row in deliveries.page(tx, webhook.id, limit=10)] == ["failed", "failed"]


def test_nothing_is_sent_to_a_webhook_that_was_disabled_until_it_is_enabled(tx: Tx) -> None:
    webhook = hook(tx)
    emit(tx, "ftjob-1")
    webhooks.change(tx, webhook.id, is_enabled=False)
    emit(tx, "ftjob-2")
    assert take(tx) == []
    webhooks.change(tx, webhook.id, is_enabled=True)
    emit(tx, "ftjob-3")
    assert [due.payload["data"]["id"] for due in take(tx)] == ["ftjob-3"]


def test_a_delivery_is_replayed_under_its_id_from_the_first_attempt(tx: Tx) -> None:
    webhook = hook(tx)
    emit(tx)
    (due,) = take(tx)
    deliveries.delivered(tx, due, response_status=200)
    row = deliveries.replay(tx, due.id)
    assert (row.status, row.attempts) == ("pending", 0)
    (again,) = take(tx)
    assert again == due
    webhooks.change(tx, webhook.id, is_enabled=False)
    with pytest.raises(Conflict, match="enable it"):
        deliveries.replay(tx, due.id)


def test_a_deleted_webhook_takes_its_deliveries_along(tx: Tx) -> None:
    webhook = hook(tx)
    emit(tx)
    webhooks.delete(tx, webhook.id)
    assert take(tx) == []
    with pytest.raises(NotFound):
        webhooks.get(tx, webhook.id)


def test_secrets_are_random_and_replaced(tx: Tx) -> None:
    webhook = hook(tx)
    first = webhook.secret
    assert first != hook(tx).secret
    assert webhooks.replace_secret(tx, webhook.id).secret != first


def test_a_replaced_secret_signs_beside_the_new_one_for_a_day(tx: Tx) -> None:
    webhook = hook(tx)
    first = webhook.secret
    second = webhooks.replace_secret(tx, webhook.id).secret

    def signing() -> tuple[str, ...]:
        emit(tx)
        (due,) = take(tx)
        deliveries.delivered(tx, due, response_status=200)
        return due.secrets

    assert signing() == (second, first)
    for hours, expected in ((-0.1, (second, first)), (0.1, (second,))):
        until = {"ago": timedelta(hours=hours)}
        tx.execute(text("UPDATE webhooks SET previous_secret_until = now() - :ago"), until)
        webhooks.forget_previous_secrets(tx)
        assert signing() == expected
    assert tx.scalar(text("SELECT count(previous_secret) FROM webhooks")) == 0


def test_a_secret_that_is_replaced_twice_signs_no_more(tx: Tx) -> None:
    webhook = hook(tx)
    webhooks.replace_secret(tx, webhook.id)
    second = webhook.secret
    third = webhooks.replace_secret(tx, webhook.id).secret
    emit(tx)
    assert [due.secrets for due in take(tx)] == [(third, second)]


def test_a_project_has_so_many_webhooks(tx: Tx) -> None:
    for _ in range(webhooks.MAX_WEBHOOKS):
        hook(tx)
    with pytest.raises(Conflict, match="50"):
        hook(tx)


def test_old_deliveries_are_forgotten_and_waiting_ones_are_not(tx: Tx) -> None:
    webhook = hook(tx)
    for number in range(3):
        emit(tx, f"ftjob-{number}")
        (due,) = take(tx)
        if number:
            deliveries.delivered(tx, due, response_status=200)
    tx.execute(
        text("UPDATE webhook_deliveries SET created_at = now() - interval '31 d' WHERE payload->'data'->>'id' <> :new"),
        {"new": "ftjob-2"},
    )
    assert deliveries.prune(tx, older_than=timedelta(days=30)) == 1
    assert told(tx, webhook) == [
        ("fine_tuning.job.succeeded", "ftjob-0"), ("fine_tuning.job.succeeded", "ftjob-2"),
    ]  # fmt: skip
