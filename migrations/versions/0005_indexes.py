"""Indexes for lists of jobs by what is rare, and for what forgets by age.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Ids sort by time, so a list reads the end of an index: whose first columns say what it is narrowed to.
LISTS = {
    "ix_jobs_status": ["project_id", "status", "id"],
    "ix_jobs_base": ["project_id", "base_model", "id"],
}
AGES = {
    "checkpoints": "created_at",
    "idempotency_keys": "created_at",
    "log_chunks": "created_at",
    "outbox": "sent_at",
    "webhook_deliveries": "created_at",
}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # rather fail than queue behind a long transaction and block everyone
    for name, columns in LISTS.items():
        op.create_index(name, "jobs", columns)
    op.create_index(
        "ix_jobs_urgent", "jobs", ["project_id", "priority", "id"], postgresql_where=sa.text("priority <> 0")
    )
    op.create_index(
        "ix_jobs_labels", "jobs", ["metadata"], postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}
    )
    op.create_index(
        "ix_jobs_unlabelled", "jobs", ["project_id", "id"], postgresql_where=sa.text("metadata = '{}'::jsonb")
    )
    for table, column in AGES.items():
        op.create_index(f"ix_{table}_age", table, [column])
    op.create_index(
        "ix_uploads_project", "uploads", ["project_id", "expires_at"], postgresql_where=sa.text("status = 'pending'")
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_uploads_project", table_name="uploads")
    for table in AGES:
        op.drop_index(f"ix_{table}_age", table_name=table)
    for name in ("ix_jobs_unlabelled", "ix_jobs_labels", "ix_jobs_urgent", *LISTS):
        op.drop_index(name, table_name="jobs")
