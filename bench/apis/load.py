"""Requests over connections that stay open, one at a time on each; every answer is read and must be a success."""

import http.client
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Server:
    host: str
    port: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    body: bytes | None = None


Make = Callable[[int, random.Random], Request]
"""The n-th request of a burst; what it asks for is drawn."""


class Refused(Exception):
    """An answer that is not 200."""


@dataclass(slots=True)
class Burst:
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    answered_bytes: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds

    @property
    def bytes_each(self) -> float:
        return self.answered_bytes / len(self.latencies_ms)

    def percentile_ms(self, percent: float) -> float:
        """Nearest rank."""
        return percentile(self.latencies_ms, percent)


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def burst(server: Server, make: Make, *, connections: int, seconds: float, seed: int) -> Burst:
    """As many requests as go through in that time.

    Raises:
        Refused: with what the server said.
    """
    numbers, found, failures = itertools.count(), Burst(), list[BaseException]()
    began = time.perf_counter()
    deadline = began + seconds

    def ask(thread: int) -> None:
        drawn = random.Random(f"{seed} {thread}")
        connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        try:
            while time.perf_counter() < deadline and not failures:
                request = make(next(numbers), drawn)
                sent = time.perf_counter()
                connection.request(request.method, request.path, request.body, dict(server.headers))
                answer = connection.getresponse()
                content = answer.read()
                latency_ms = (time.perf_counter() - sent) * 1000
                if answer.status != 200:
                    raise Refused(f"{request.method} {request.path}: {answer.status} {content[:500]!r}")
                found.latencies_ms.append(latency_ms)
                found.answered_bytes += len(content)
        except BaseException as failure:  # the thread's edge: the caller raises it
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    found.seconds = time.perf_counter() - began
    return found
