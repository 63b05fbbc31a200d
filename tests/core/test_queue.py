"""The courier carries a job's id, and says so when it cannot."""

import json
from queue import Empty

import pytest
from bitsmith_core.errors import QueueUnavailable
from bitsmith_core.ids import JobId
from bitsmith_core.queue import GPU_QUEUE, RUN_JOB, Courier, make_celery
from bitsmith_core.settings import QueueSettings
from pydantic import SecretStr


def test_a_message_holds_the_id_and_nothing_else(queue_settings: QueueSettings, courier: Courier) -> None:
    courier.send(JobId("ftjob-x"))
    app = make_celery(queue_settings)
    with app.connection_for_read() as connection, connection.SimpleQueue(GPU_QUEUE) as queue:
        message = queue.get(timeout=5)
        message.ack()
    assert message.headers["task"] == RUN_JOB
    assert json.loads(message.body)[:2] == [["ftjob-x"], {}]
    app.close()


def test_every_pool_has_a_queue_of_its_own_and_the_default_one_the_queue_there_always_was(
    queue_settings: QueueSettings, courier: Courier
) -> None:
    """Workers of the release before listen to `gpu`."""
    courier.send(JobId("ftjob-any"))
    courier.send(JobId("ftjob-big"), pool="h100")
    app = make_celery(queue_settings)
    with app.connection_for_read() as connection:
        for name, job_id in (("gpu", "ftjob-any"), ("gpu.h100", "ftjob-big")):
            with connection.SimpleQueue(name) as queue:
                message = queue.get(timeout=5)
                message.ack()
                assert json.loads(message.body)[0] == [job_id]
                with pytest.raises(Empty):
                    queue.get(block=False)
    app.close()


def test_an_unreachable_broker_is_reported_not_hidden() -> None:
    nowhere = Courier(QueueSettings(url=SecretStr("redis://127.0.0.1:1/0")))
    with pytest.raises(QueueUnavailable):
        nowhere.send(JobId("ftjob-x"))
    nowhere.close()
