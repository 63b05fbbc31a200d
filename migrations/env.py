"""Runs the migrations against BITSMITH_DATABASE_URL, one transaction each."""

from alembic import context
from bitsmith_core.db.base import Base
from bitsmith_core.db.models import Job
from bitsmith_core.settings import DatabaseSettings
from sqlalchemy import create_engine, text

assert Job.metadata is Base.metadata  # importing the models is what fills the metadata

MIGRATION_LOCK = 7_241_903_115  # any constant; two migrating processes must not interleave


def run() -> None:
    engine = create_engine(DatabaseSettings.from_environment().url.get_secret_value())
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.commit()
        context.configure(
            connection=connection, target_metadata=Base.metadata, compare_type=True, compare_server_default=True,
            transaction_per_migration=True,
        )  # fmt: skip
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    raise SystemExit("offline SQL is not supported: migrations read the database they change")
run()
