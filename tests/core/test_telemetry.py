"""A trace's context travels whether or not anybody records it, and nonsense from outside does no harm."""

import re

import pytest
from bitsmith_core import jobs, telemetry
from bitsmith_core.db import Tx
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.queue import Courier
from bitsmith_core.settings import QueueSettings
from bitsmith_core.spec import JobSpec
from redis import Redis

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_without_a_trace_there_is_nothing_to_pass_on() -> None:
    assert telemetry.traceparent() is None
    with telemetry.span("alone"):
        assert telemetry.traceparent() is None


def test_a_trace_that_began_elsewhere_is_passed_on_unrecorded() -> None:
    with telemetry.continued(PARENT):
        assert telemetry.traceparent() == PARENT
        with telemetry.span("inside", job_id="ftjob-1"):
            assert telemetry.traceparent() == PARENT
    with telemetry.span("with a parent", parent=PARENT):
        assert telemetry.traceparent() == PARENT
    assert telemetry.traceparent() is None


@pytest.mark.parametrize("sent", ["", "nonsense", PARENT[:-3], f"00-{'0' * 32}-b7ad6b7169203331-01", "\0", "é" * 999])
def test_what_is_no_traceparent_is_as_none(sent: str) -> None:
    with telemetry.continued(PARENT), telemetry.continued(sent), telemetry.span("inside", parent=sent):
        assert telemetry.traceparent() == PARENT


def test_a_job_keeps_the_trace_it_was_submitted_in_and_its_offer_goes_on_with_it(tx: Tx, spec: JobSpec) -> None:
    with telemetry.continued(PARENT):
        traced = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    untraced = jobs.submit(tx, spec, project=DEFAULT_PROJECT)
    assert (traced.traceparent, untraced.traceparent) == (PARENT, None)
    for name in ("w1", "w2"):
        jobs.workers.report(tx, name=name, device="cpu", local_models=[])
    jobs.offer(tx)
    told = {row.payload["job_id"]: row.payload["traceparent"] for row in jobs.outbox.unsent(tx, limit=10)}
    assert told == {traced.id: PARENT, untraced.id: None}


def test_a_message_carries_it_as_a_header(courier: Courier, queue_settings: QueueSettings, spec: JobSpec) -> None:
    with Redis.from_url(queue_settings.url.get_secret_value(), decode_responses=True) as broker:
        broker.flushall()
        courier.send("ftjob-1", traceparent=PARENT)  # type: ignore[arg-type]  # any text will do
        (message,) = broker.lrange("gpu", 0, -1)
        broker.flushall()
    assert re.search(rf'"traceparent": "{PARENT}"', message)
