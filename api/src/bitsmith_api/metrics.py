"""What Prometheus sees: Postgres' truth, read at each scrape, and this process' own requests."""

from collections.abc import Iterator

from bitsmith_core import jobs, registry
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.jobs import JobStatus
from bitsmith_core.log import get_logger
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
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
                counts = jobs.status_counts(tx)
                wait_s = jobs.oldest_wait_seconds(tx)
                live_workers = len(jobs.workers.alive(tx))
                versions = registry.count_versions(tx)
        except DatabaseUnavailable as error:
            get_logger().warning("metrics.database_unavailable", error=str(error))
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up

        by_status = GaugeMetricFamily("bitsmith_jobs", "Jobs by status.", labels=["status"])
        for status in JobStatus:
            by_status.add_metric([status], counts.get(status, 0))
        yield by_status
        yield _gauge("bitsmith_queue_oldest_wait_seconds", "Age of the oldest queued job, 0 without one.", wait_s)
        yield _gauge("bitsmith_workers_live", "Workers that reported lately.", live_workers)
        yield _gauge("bitsmith_versions_published", "Model versions in the registry.", versions)


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
