"""Rows by Postgres' own COPY: every type comes through as it is, whatever version writes and reads it."""

from collections.abc import Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path

import psycopg
from bitsmith_core.bundle import file_sha256
from psycopg import Connection, sql

from bitsmith_backup.contents import TABLES, Table
from bitsmith_backup.errors import BackupFailed

_REVISION = "alembic_version"


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """
    Raises:
        BackupFailed: Postgres does not answer, or refuses something on the way.
    """
    try:
        with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://", 1)) as connection:
            yield connection
    except psycopg.Error as error:
        raise BackupFailed(f"Postgres: {error}") from error


def export(connection: Connection, folder: Path) -> tuple[str, list[Table]]:
    """All rows as they are at one moment; answers the schema's revision and the tables."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    (folder / TABLES).mkdir(parents=True)
    with connection.transaction():
        revision = connection.execute(sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(_REVISION)))
        found = revision.fetchone()
        if found is None:
            raise BackupFailed("the database has no schema; run the migrations, or name another database")
        return str(found[0]), [_export(connection, name, folder) for name in _in_order(connection)]


def restore(connection: Connection, folder: Path, tables: list[Table]) -> None:
    """Fill the empty tables, all or nothing.

    Raises:
        BackupFailed: some table has rows already, or a file is not what the snapshot says.
    """
    with connection.transaction():
        for table in tables:
            if not is_empty(connection, table.name):
                raise BackupFailed(f"table {table.name} has rows; restore into a database of its own")
        for table in tables:
            path = _file(folder, table.name)
            if file_sha256(path) != table.sha256:
                raise BackupFailed(f"{path} is not what was written; take another snapshot")
        for table in tables:
            # What triggers keep is among the rows.
            connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(sql.Identifier(table.name)))
        for table in tables:
            _restore(connection, table, folder)
        for table in tables:
            connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(sql.Identifier(table.name)))
        _continue_numbers(connection)


def empty(connection: Connection, tables: list[Table]) -> None:
    """Take away what migrations put into new tables, unless there is anything else.

    Raises:
        BackupFailed: there are jobs, files or models: this is no new database.
    """
    for name in ("jobs", "files", "models"):
        if not is_empty(connection, name):
            raise BackupFailed(f"the database has rows in {name}; restore into a new one")
    with connection.transaction():
        names = sql.SQL(", ").join(sql.Identifier(table.name) for table in tables)
        connection.execute(sql.SQL("TRUNCATE {}").format(names))


def is_empty(connection: Connection, name: str) -> bool:
    row = connection.execute(sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(sql.Identifier(name))).fetchone()
    return row is not None and bool(row[0])


def _export(connection: Connection, name: str, folder: Path) -> Table:
    columns = _columns(connection, name)
    path = _file(folder, name)
    copy = sql.SQL("COPY {} ({}) TO STDOUT").format(sql.Identifier(name), _list(columns))
    with path.open("wb") as file, connection.cursor() as cursor:
        with cursor.copy(copy) as pieces:
            for piece in pieces:
                file.write(piece)
        rows = cursor.rowcount
    return Table(name=name, columns=columns, rows=rows, sha256=file_sha256(path))


def _restore(connection: Connection, table: Table, folder: Path) -> None:
    copy = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), _list(table.columns))
    with _file(folder, table.name).open("rb") as file, connection.cursor() as cursor:
        with cursor.copy(copy) as into:
            while piece := file.read(2**20):
                into.write(piece)
        if cursor.rowcount != table.rows:
            raise BackupFailed(f"table {table.name} took {cursor.rowcount} rows of {table.rows}")


def _in_order(connection: Connection) -> list[str]:
    """Every table but Alembic's own, each after those that it refers to."""
    names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> %s"
    graph: dict[str, set[str]] = {name: set() for (name,) in connection.execute(names, (_REVISION,))}
    references = (
        "SELECT c.relname, r.relname FROM pg_constraint JOIN pg_class c ON c.oid = conrelid "
        "JOIN pg_class r ON r.oid = confrelid WHERE contype = 'f'"
    )
    for table, referred in connection.execute(references):
        if table in graph and table != referred:
            graph[table].add(referred)
    return list(TopologicalSorter(graph).static_order())


def _columns(connection: Connection, name: str) -> list[str]:
    """Without generated ones, which nobody may write."""
    query = (
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s "
        "AND is_generated = 'NEVER' ORDER BY ordinal_position"
    )
    return [column for (column,) in connection.execute(query, (name,))]


def _continue_numbers(connection: Connection) -> None:
    """Sequences go on after the largest number that there is."""
    owned = (
        "SELECT t.relname, a.attname, pg_get_serial_sequence(quote_ident(t.relname), a.attname) FROM pg_attribute a "
        "JOIN pg_class t ON t.oid = a.attrelid JOIN pg_namespace n ON n.oid = t.relnamespace "
        "WHERE n.nspname = 'public' AND t.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped "
        "AND pg_get_serial_sequence(quote_ident(t.relname), a.attname) IS NOT NULL"
    )
    for table, column, sequence in connection.execute(owned).fetchall():
        largest = sql.SQL("(SELECT max({}) FROM {})").format(sql.Identifier(column), sql.Identifier(table))
        query = sql.SQL("SELECT setval({}, coalesce({}, 0) + 1, false)").format(sql.Literal(sequence), largest)
        connection.execute(query)


def _file(folder: Path, name: str) -> Path:
    return folder / TABLES / f"{name}.copy"


def _list(columns: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column) for column in columns)
