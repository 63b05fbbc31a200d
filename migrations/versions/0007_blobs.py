"""Files of versions under their digests: a row for each object, which the sweep and a publication meet at.

Objects of versions that are there already keep the keys they have.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # rather fail than queue behind a long transaction and block everyone
    op.create_table(
        "blobs",
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("held_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_blobs")),
    )
    op.execute("INSERT INTO blobs (object_key) SELECT DISTINCT object_key FROM version_files")
    op.create_foreign_key(
        op.f("fk_version_files_object_key_blobs"), "version_files", "blobs", ["object_key"], ["object_key"]
    )
    op.create_index("ix_evals_items_key", "evals", ["items_key"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_evals_items_key", table_name="evals")
    op.drop_constraint(op.f("fk_version_files_object_key_blobs"), "version_files")
    op.drop_table("blobs")
