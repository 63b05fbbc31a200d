"""What is asked often is counted as it happens: bytes of a project's files by a trigger, what ended by the scheduler.

A trigger, so that the sum follows the rows whoever writes them, an older release during its replacement, too.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COUNT = """
CREATE FUNCTION count_stored_bytes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.deleted_at IS NULL THEN
        UPDATE project_storage SET bytes = bytes - OLD.bytes WHERE project_id = OLD.project_id;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.deleted_at IS NULL THEN
        INSERT INTO project_storage (project_id, bytes) VALUES (NEW.project_id, NEW.bytes)
        ON CONFLICT (project_id) DO UPDATE SET bytes = project_storage.bytes + EXCLUDED.bytes;
    END IF;
    RETURN NULL;
END $$
"""
TRIGGER = """
CREATE TRIGGER files_stored_bytes AFTER INSERT OR DELETE OR UPDATE OF project_id, bytes, deleted_at ON files
FOR EACH ROW EXECUTE FUNCTION count_stored_bytes()
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # rather fail than queue behind a long transaction and block everyone
    op.create_table(
        "project_storage",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_project_storage_project_id_projects")),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_project_storage")),
    )
    op.execute(COUNT)
    op.execute(TRIGGER)  # locks the table against writers until the end: nothing is missed, nothing counted twice
    op.execute(
        "INSERT INTO project_storage SELECT project_id, sum(bytes) FROM files WHERE deleted_at IS NULL GROUP BY 1"
    )
    op.create_table(
        "tallies",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("kind", "project_id", "outcome", "reason_code", name=op.f("pk_tallies")),
    )
    op.create_index("ix_jobs_finished", "jobs", ["finished_at"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_jobs_finished", table_name="jobs")
    op.drop_table("tallies")
    op.execute("DROP TRIGGER files_stored_bytes ON files")
    op.execute("DROP FUNCTION count_stored_bytes")
    op.drop_table("project_storage")
