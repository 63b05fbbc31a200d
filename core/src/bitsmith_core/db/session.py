"""One unit of work: `with database.transaction() as tx`. Services take `tx` and never commit; the edge does."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, func, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.settings import DatabaseSettings

Tx = Session

database_now = func.now  # the transaction's start by the database's clock; the only time that leases and queues know


_MAX_OVERFLOW = 10


class Database:
    def __init__(self, settings: DatabaseSettings) -> None:
        self.connections = settings.pool_size + _MAX_OVERFLOW  # at the same time, at most
        self._engine: Engine = create_engine(
            settings.url.get_secret_value(),
            pool_size=settings.pool_size,
            max_overflow=_MAX_OVERFLOW,
            pool_pre_ping=True,  # a restarted server must not fail the first request after it
            connect_args={
                "connect_timeout": 5,
                # A process that was frozen in the middle of a transaction must not hold its locks for ever.
                "options": "-c timezone=utc -c lock_timeout=10s -c idle_in_transaction_session_timeout=15s",
                # A server that vanished without a word must not hang a lease or a leader for TCP's quarter of an hour.
                "tcp_user_timeout": 20_000,  # milliseconds
                "keepalives_idle": 15,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        # Objects outlive the commit at the edge, which renders them; nothing is written through them afterwards.
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """Commit on exit, roll back on any exception.

        Raises:
            DatabaseUnavailable: the server is gone or refuses connections.
        """
        try:
            with self._sessions.begin() as tx:
                yield tx
        except OperationalError as error:
            raise DatabaseUnavailable(f"Postgres does not answer: {error.orig}") from error
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise DatabaseUnavailable(f"Postgres ended the connection: {error.orig}") from error
        except PoolTimeout as error:
            raise DatabaseUnavailable(f"every connection to Postgres is in use: {error}") from error

    def ping(self) -> None:
        """Raises DatabaseUnavailable."""
        with self.transaction() as tx:
            tx.execute(text("SELECT 1"))

    def close(self) -> None:
        self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """For what is not a unit of work: advisory locks, migrations' checks."""
        return self._engine
