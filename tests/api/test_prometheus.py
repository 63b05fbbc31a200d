"""What whoever watches an installation sees of its jobs, its GPUs, its estimates and its webhooks."""

import re
from pathlib import Path

from bitsmith_core import delivery, estimate, jobs
from bitsmith_core.bundle import LayerBits, QuantizationFacts, StageFacts
from bitsmith_core.delivery import EventType, deliveries, webhooks
from bitsmith_core.estimate import DataFacts, WorkerFacts
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass, Metrics, Stage
from sqlalchemy import text

from tests.api.conftest import EXAMPLE, MANIFEST, Platform
from tests.api.test_health import samples


def test_waits_are_told_by_quantile_and_only_those_of_the_last_hour(platform: Platform) -> None:
    assert not [name for name in samples(platform.client) if name.startswith("bitsmith_queue_wait_seconds")]
    for waited_s in (10, 20, 100):
        job_id = platform.submit()
        platform.finish(platform.claim(job_id))
        with platform.database.transaction() as tx:
            tx.execute(
                text(
                    "UPDATE jobs SET created_at = (SELECT started_at FROM attempts WHERE job_id = jobs.id) "
                    "- make_interval(secs => :waited_s) WHERE id = :job_id"
                ),
                {"waited_s": waited_s, "job_id": job_id},
            )
    found = samples(platform.client)
    assert found['bitsmith_queue_wait_seconds{quantile="0.5"}'] == 20
    assert 20 < found['bitsmith_queue_wait_seconds{quantile="0.99"}'] <= 100
    with platform.database.transaction() as tx:
        tx.execute(
            text("UPDATE attempts SET started_at = started_at - interval '2 h', ended_at = ended_at - interval '2 h'")
        )
    assert not [name for name in samples(platform.client) if name.startswith("bitsmith_queue_wait_seconds")]


def test_attempts_are_counted_by_their_end_and_lost_leases_by_themselves(platform: Platform) -> None:
    platform.finish(platform.claim(platform.submit()))
    lease = platform.claim(platform.submit())
    with platform.database.transaction() as tx:
        jobs.fail(tx, lease, Failed(failure=FailureClass.DATA, code="bad_line", message="Bad."))
    platform.claim(platform.submit())
    with platform.database.transaction() as tx:
        tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE status = 'running'"))
        jobs.reap(tx)
    found = samples(platform.client)
    ended = {name: value for name, value in found.items() if name.startswith("bitsmith_attempts_ended_total")}
    assert ended == {
        'bitsmith_attempts_ended_total{outcome="succeeded",reason=""}': 1,
        'bitsmith_attempts_ended_total{outcome="data",reason="bad_line"}': 1,
        'bitsmith_attempts_ended_total{outcome="infra",reason="lease_expired"}': 1,
    }
    assert found["bitsmith_leases_lost_total"] == 1


def test_gpu_time_is_what_is_over_and_what_runs(platform: Platform) -> None:
    platform.finish(platform.claim(platform.submit()))
    platform.claim(platform.submit())
    with platform.database.transaction() as tx:
        tx.execute(text("UPDATE attempts SET gpu_seconds = 500 WHERE ended_at IS NOT NULL"))
        tx.execute(
            text(
                "UPDATE attempts SET started_at = now() - interval '100 s', evidence = '{\"devices\": 4}' "
                "WHERE ended_at IS NULL"
            )
        )
    used_s = samples(platform.client)[f'bitsmith_gpu_seconds_total{{project="{DEFAULT_PROJECT}"}}']
    assert 900 <= used_s < 1100


def test_the_flip_rate_is_the_last_one_of_each_job_in_training(platform: Platform) -> None:
    job_id = platform.submit()
    lease = platform.claim(job_id)
    with platform.database.transaction() as tx:
        for first, rates in ((1, [0.5, 0.25]), (3, [0.125, 0.0625])):
            columns: dict[str, list[float | None]] = {"flip_rate": list(rates)}
            jobs.record(tx, lease, Metrics(stage=Stage.TRAINING, steps=[first, first + 1], columns=columns))
    assert samples(platform.client)[f'bitsmith_training_flip_rate{{job_id="{job_id}"}}'] == 0.0625
    platform.finish(lease)
    assert not [name for name in samples(platform.client) if name.startswith("bitsmith_training_flip_rate")]


def test_the_flip_rate_is_that_of_the_step_repeated_last_when_training_went_back(platform: Platform) -> None:
    job_id = platform.submit()
    lease = platform.claim(job_id)
    with platform.database.transaction() as tx:
        for first, rates in ((1, [0.5, 0.5, 0.5, 0.25]), (2, [0.125])):
            columns: dict[str, list[float | None]] = {"flip_rate": list(rates)}
            steps = list(range(first, first + len(rates)))
            jobs.record(tx, lease, Metrics(stage=Stage.TRAINING, steps=steps, columns=columns))
    assert samples(platform.client)[f'bitsmith_training_flip_rate{{job_id="{job_id}"}}'] == 0.125


def test_estimates_are_held_against_what_was_measured(platform: Platform) -> None:
    layers = [
        LayerBits(name=f"model.layers.0.{name}", bits=4, group_size=32, weights=weights)
        for name, weights in (
            ("self_attn.q_proj", 64 * 64), ("self_attn.k_proj", 32 * 64), ("self_attn.v_proj", 32 * 64),
            ("self_attn.o_proj", 64 * 64), ("mlp.gate_proj", 128 * 64), ("mlp.up_proj", 128 * 64),
            ("mlp.down_proj", 128 * 64),
        )
    ]  # fmt: skip
    quantized = QuantizationFacts(
        **{
            **MANIFEST.quantization.model_dump(exclude={"layers"}),  # type: ignore[union-attr]  # it has one
            "quantized_weights": sum(layer.weights for layer in layers),
            "layers": layers,
        }
    )
    job_id = platform.submit()
    with platform.database.transaction() as tx:
        spec = JobSpec.model_validate(jobs.get(tx, job_id).spec)
    model = estimate.facts_of(quantized)
    assert model is not None
    data = DataFacts(examples=1, bytes=len(EXAMPLE))
    told = estimate.estimate(spec, model, data, WorkerFacts(device="cpu"))
    stages = [
        StageFacts(stage="quantizing", wall_s=1.0, peak_memory_bytes=1),
        StageFacts(stage="training", wall_s=3 * told.training_s, peak_memory_bytes=2 * told.peak.bytes),
    ]
    platform.publish("m", MANIFEST.model_copy(update={"quantization": quantized, "stages": stages}))
    found = samples(platform.client)
    for quantile in ("0.5", "1"):
        assert round(found[f'bitsmith_estimate_ratio{{of="memory",quantile="{quantile}"}}'], 6) == 2
        assert round(found[f'bitsmith_estimate_ratio{{of="training_time",quantile="{quantile}"}}'], 6) == 3


def test_webhooks_that_fall_behind_are_seen(platform: Platform) -> None:
    with platform.database.transaction() as tx:
        webhooks.create(tx, project=DEFAULT_PROJECT, url="https://example.org/")
        for number in range(3):
            delivery.emit(tx, project=DEFAULT_PROJECT, type=EventType.JOB_FAILED, target=f"ftjob-{number}")
        tx.flush()
        (due,) = deliveries.take(tx, limit=1, lease=jobs.workers.ALIVE_FOR)
        deliveries.delivered(tx, due, response_status=200)
        tx.execute(
            text("UPDATE webhook_deliveries SET next_attempt_at = now() - interval '1 h' WHERE status = 'pending'")
        )
    found = samples(platform.client)
    counts = {name: found[f'bitsmith_webhook_deliveries{{status="{name}"}}'] for name in ("pending", "delivered")}
    assert counts == {"pending": 2, "delivered": 1}
    assert 3600 <= found["bitsmith_webhook_overdue_seconds"] < 3700


def test_what_is_measured_is_documented_and_nothing_else(platform: Platform) -> None:
    platform.client.get("/v1/files")
    text_ = platform.client.get("/metrics").text
    told = set(re.findall(r"^# TYPE (bitsmith_\w+) (?!untyped)", text_, re.MULTILINE))
    told = {name for name in told if not name.endswith("_created")}
    documented = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    table = re.search(r"## Metrics\n(.*?)\n## ", documented, re.DOTALL)
    assert table is not None
    assert told == set(re.findall(r"`(bitsmith_\w+)`", table[1]))
