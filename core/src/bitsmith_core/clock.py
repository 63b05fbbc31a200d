"""The only wall clock outside the database. Leases and queues use the database's clock, never this one."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    return datetime.now(UTC)
