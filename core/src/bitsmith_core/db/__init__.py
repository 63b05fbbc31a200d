"""Postgres, the only truth."""

from bitsmith_core.db.session import Database, Tx, database_now

__all__ = ["Database", "Tx", "database_now"]
