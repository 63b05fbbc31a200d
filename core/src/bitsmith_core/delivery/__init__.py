"""What is told outside: webhooks, usage, and the audit trail."""

from bitsmith_core.delivery.webhooks import EventType, emit

__all__ = ["EventType", "emit"]
