"""Pools of workers by name: which one a worker belongs to, which one a job waits for.

A worker or an API of the release before names none: theirs is the default pool.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

WAITS = sa.text("status = 'queued'")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # rather fail than queue behind a long transaction and block everyone
    op.add_column("workers", sa.Column("pool", sa.Text(), server_default="default", nullable=False))
    op.add_column("jobs", sa.Column("pool", sa.Text(), server_default="default", nullable=False))
    # A pool with nothing to do and a free worker is asked for twice a second, however many jobs wait in others.
    op.create_index("ix_jobs_of_pool", "jobs", ["pool", "priority", "created_at"], postgresql_where=WAITS)
    op.drop_index("ix_jobs_waiting", table_name="jobs")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_index("ix_jobs_waiting", "jobs", ["priority", "created_at"], postgresql_where=WAITS)
    op.drop_index("ix_jobs_of_pool", table_name="jobs")
    op.drop_column("jobs", "pool")
    op.drop_column("workers", "pool")
