"""Which object of a cluster a job was made of.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # rather fail than queue behind a long transaction and block everyone
    op.create_table(
        "cluster_jobs",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("is_cancelled_with_it", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_cluster_jobs_job_id_jobs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_cluster_jobs_job_id")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_cluster_jobs")),
    )
    op.create_index("ix_cluster_jobs_there", "cluster_jobs", ["namespace"], postgresql_where=sa.text("gone_at IS NULL"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("cluster_jobs")
