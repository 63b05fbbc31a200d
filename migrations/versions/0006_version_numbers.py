"""A model remembers the last number it gave, so that a deleted version's is never given again.

With it two indexes for what people browse: a version's headline score by task (at most one), and models that all
projects may read.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # rather fail than queue behind a long transaction and block everyone
    op.add_column("models", sa.Column("last_number", sa.Integer(), server_default="0", nullable=False))
    op.execute(
        """
        UPDATE models SET last_number = numbers.last
        FROM (SELECT model_id, max(number) AS last FROM versions GROUP BY model_id) numbers
        WHERE numbers.model_id = models.id
        """
    )
    op.create_index(
        "ix_eval_results_headline_of",
        "eval_results",
        ["version_id", "task"],
        unique=True,
        postgresql_where=sa.text("is_headline"),
    )
    op.create_index("ix_models_shared", "models", ["name"], postgresql_where=sa.text("visibility = 'installation'"))


def downgrade() -> None:
    """Models without a version are lost: before this revision there were none."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_models_shared", table_name="models")
    op.drop_index("ix_eval_results_headline_of", table_name="eval_results")
    op.execute("DELETE FROM models WHERE NOT EXISTS (SELECT FROM versions WHERE model_id = models.id)")
    op.drop_column("models", "last_number")
