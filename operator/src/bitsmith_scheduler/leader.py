"""At most one scheduler acts: the one whose connection holds an advisory lock in Postgres.

The lock lives and dies with its connection, so a scheduler that is gone, or cut off, frees it without anybody's help.
Two that act at once for a moment would do no harm (every action locks the rows it takes); they would only waste work.
"""

from types import TracebackType
from typing import Self

from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.log import get_logger
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

log = get_logger()

LOCK_KEY = 0x62697473  # "bits"; any number, as long as every version of the scheduler uses the same


class Leader:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._is_leading = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._let_go()

    def is_leading(self) -> bool:
        """Whether this process leads now; asks Postgres every time, and tries to become leader if nobody is.

        Raises:
            DatabaseUnavailable: and leads no longer.
        """
        try:
            self._is_leading = self._still_leads() if self._is_leading else self._try_to_lead()
        except DBAPIError as error:
            if self._is_leading:
                log.warning("leader.lost", reason=str(error.orig))
            self._let_go()
            raise DatabaseUnavailable(f"Postgres does not answer: {error.orig}") from error
        return self._is_leading

    def _try_to_lead(self) -> bool:
        if self._connection is None:
            self._connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._connection.detach()  # never back to the pool, which would keep the lock
        won = bool(self._connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,)).scalar())
        if won:
            log.info("leader.elected")
        return won

    def _still_leads(self) -> bool:
        assert self._connection is not None
        self._connection.exec_driver_sql("SELECT 1")  # the connection answers, so its lock is still held
        return True

    def _let_go(self) -> None:
        connection, self._connection, self._is_leading = self._connection, None, False
        if connection is not None:
            try:
                connection.close()
            except DBAPIError as error:
                log.info("leader.connection_was_dead", reason=str(error.orig))
