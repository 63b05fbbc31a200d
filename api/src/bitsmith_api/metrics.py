"""What Prometheus sees: Postgres' truth, read at each scrape, and this process' own requests."""

from collections.abc import Iterator
from statistics import median
from typing import get_args

from bitsmith_core import jobs, registry
from bitsmith_core.db import Database, Tx
from bitsmith_core.delivery import deliveries
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.jobs import JobStatus
from bitsmith_core.log import get_logger
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)  # uploads take minutes


class PlatformCollector(Collector):
    """Jobs, queue, workers and registry, the same from every replica because Postgres says it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[Metric]:
        """Nothing: registration must not ask Postgres, which may still be starting."""
        return []

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("bitsmith_database_up", "1 if Postgres answered this scrape.")
        try:
            with self._database.transaction() as tx:
                figures = [*_of_jobs(tx), *_of_attempts(tx), *_of_estimates(tx), *_of_deliveries(tx)]
        except DatabaseUnavailable as error:
            get_logger().warning("metrics.database_unavailable", error=str(error))
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from figures


def _of_jobs(tx: Tx) -> Iterator[Metric]:
    counts = jobs.figures.by_status(tx)
    by_status = GaugeMetricFamily("bitsmith_jobs", "Jobs by status.", labels=["status"])
    for status in JobStatus:
        by_status.add_metric([status], counts.get(status, 0))
    yield by_status

    oldest_s = jobs.oldest_wait_seconds(tx)
    yield _gauge("bitsmith_queue_oldest_wait_seconds", "Age of the oldest queued job, 0 without one.", oldest_s)
    waits = GaugeMetricFamily(
        "bitsmith_queue_wait_seconds",
        "From submission to the first attempt, of jobs started in the last hour; absent without one.",
        labels=["quantile"],
    )
    for quantile, wait_s in jobs.figures.queue_waits(tx).items():
        waits.add_metric([f"{quantile:g}"], wait_s)
    yield waits
    pools = jobs.figures.by_pool(tx)
    live = sum(pool.live for pool in pools.values())
    yield _gauge("bitsmith_workers_live", "Workers that reported lately.", live)
    live_of = GaugeMetricFamily(
        "bitsmith_pool_workers_live",
        "Workers that reported lately, by pool; 0 where jobs wait for none.",
        labels=["pool"],
    )
    queued_of = GaugeMetricFamily("bitsmith_pool_jobs_queued", "Queued jobs by pool.", labels=["pool"])
    for name, pool in pools.items():
        live_of.add_metric([name], pool.live)
        queued_of.add_metric([name], pool.queued)
    yield live_of
    yield queued_of
    yield _gauge("bitsmith_versions_published", "Model versions in the registry.", registry.count_versions(tx))


def _of_attempts(tx: Tx) -> Iterator[Metric]:
    all_ended = jobs.figures.attempts_ended(tx)
    ended = CounterMetricFamily(
        "bitsmith_attempts_ended", "Attempts that are over, by what became of them.", labels=["outcome", "reason"]
    )
    for kind in all_ended:
        ended.add_metric([kind.outcome, kind.reason], kind.count)
    yield ended
    yield CounterMetricFamily(
        "bitsmith_leases_lost",
        "Attempts that ended because their worker fell silent.",
        value=sum(kind.count for kind in all_ended if kind.reason == "lease_expired"),
    )

    used = CounterMetricFamily("bitsmith_gpu_seconds", "Time that attempts held devices.", labels=["project"])
    for project, seconds in jobs.figures.gpu_seconds(tx).items():
        used.add_metric([project], seconds)
    yield used

    flips = GaugeMetricFamily(
        "bitsmith_training_flip_rate", "Part of the codes that the last step changed, of jobs in training.",
        labels=["job_id"],  # not job, which is Prometheus' own
    )  # fmt: skip
    for job_id, rate in jobs.figures.flip_rates(tx).items():
        flips.add_metric([job_id], rate)
    yield flips


def _of_estimates(tx: Tx) -> Iterator[Metric]:
    ratio = GaugeMetricFamily(
        "bitsmith_estimate_ratio",
        "Measured over estimated, of the newest versions' jobs: 1 is right, 2 took twice as much.",
        labels=["of", "quantile"],
    )
    found = jobs.figures.estimate_accuracy(tx)
    for of, ratios in (
        ("memory", [each.memory for each in found if each.memory is not None]),
        ("training_time", [each.training_time for each in found if each.training_time is not None]),
    ):
        if ratios:
            ratio.add_metric([of, "0.5"], median(ratios))
            ratio.add_metric([of, "1"], max(ratios))
    yield ratio


def _of_deliveries(tx: Tx) -> Iterator[Metric]:
    counts = deliveries.counts(tx)
    by_status = GaugeMetricFamily(
        "bitsmith_webhook_deliveries",
        "Webhooks' events by status: all that are pending, and the others of the last hour.",
        labels=["status"],
    )
    for status in get_args(deliveries.Status):
        by_status.add_metric([status], counts.get(status, 0))
    yield by_status
    overdue_s = deliveries.oldest_due_seconds(tx)
    yield _gauge(
        "bitsmith_webhook_overdue_seconds", "For how long the most overdue event is due, 0 if none.", overdue_s
    )


class Metrics:
    """One registry for each application, so that two in one process do not mix."""

    def __init__(self, database: Database) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(PlatformCollector(database))
        self._requests = Counter(
            "bitsmith_http_requests",
            "Requests answered, by route template.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "bitsmith_http_request_seconds",
            "Seconds until the first byte of the answer, by route template.",
            ["method", "route"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )

        self.open_streams = Gauge("bitsmith_event_streams_open", "Clients that follow a job.", registry=self._registry)

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        method = method if method in _METHODS else "OTHER"  # a client may invent methods; labels must stay few
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self) -> bytes:
        return generate_latest(self._registry)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
