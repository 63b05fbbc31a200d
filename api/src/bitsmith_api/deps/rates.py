"""How often each key has asked: counted in Redis for all API processes together, or in this one.

Redis is allowed to be away. Then each process counts for itself, and nobody is turned away because of it.
"""

import math
import threading
import time
from dataclasses import dataclass

from bitsmith_core.log import get_logger
from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from pydantic import SecretStr

WINDOW_S = 60
ASK_AGAIN_AFTER_S = 10.0  # a Redis that is away costs one request in this time its timeout, not every request
TIMEOUT_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a key stands after a request."""

    is_within: bool
    limit: int  # requests in WINDOW_S
    remaining: int
    reset_s: int  # until there is room for one more

    @property
    def headers(self) -> dict[str, str]:
        """As the IETF writes them (draft-ietf-httpapi-ratelimit-headers), and as OpenAI's clients know them."""
        return {
            "RateLimit-Policy": f'"key";q={self.limit};w={WINDOW_S}',
            "RateLimit": f'"key";r={self.remaining};t={self.reset_s}',
            "X-RateLimit-Limit-Requests": str(self.limit),
            "X-RateLimit-Remaining-Requests": str(self.remaining),
            "X-RateLimit-Reset-Requests": f"{self.reset_s}s",
        }


class Rates:
    def __init__(self, url: SecretStr | None) -> None:
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = None if url is None else SlidingWindowCounterRateLimiter(_redis(url))
        self._ask_again_at = 0.0
        self._lock = threading.Lock()

    def count(self, who: str, *, limit: int) -> Standing:
        """One more request of this key; the ones beyond the limit are not counted."""
        shared = self._shared
        if shared is None or time.monotonic() < self._ask_again_at:
            return _counted(self._own, who, limit)
        try:
            return _counted(shared, who, limit)
        except StorageError as error:
            with self._lock:
                self._ask_again_at = time.monotonic() + ASK_AGAIN_AFTER_S
            get_logger().warning("rates.redis_unavailable", error=type(error.storage_error).__name__)
            return _counted(self._own, who, limit)


def _redis(url: SecretStr) -> RedisStorage:
    return RedisStorage(
        url.get_secret_value(),
        wrap_exceptions=True,
        key_prefix="bitsmith:rates",
        socket_connect_timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
    )


def _counted(limiter: SlidingWindowCounterRateLimiter, who: str, limit: int) -> Standing:
    item = RateLimitItemPerMinute(limit)
    is_within = limiter.hit(item, who)
    window = limiter.get_window_stats(item, who)
    reset_s = max(1, math.ceil(window.reset_time - time.time()))
    return Standing(is_within=is_within, limit=limit, remaining=int(window.remaining), reset_s=reset_s)
