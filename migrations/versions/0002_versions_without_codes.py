"""A version may be adapters on a float base: it has no bits per weight.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # rather fail than queue behind a long transaction and block everyone
    for column in ("bpw_codes", "bpw_effective"):
        op.alter_column("versions", column, existing_type=sa.Double(), nullable=True)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    # The merged weights of such a version are 16-bit ones.
    op.execute(
        "UPDATE versions SET bpw_codes = 16, bpw_effective = 16 WHERE bpw_codes IS NULL OR bpw_effective IS NULL"
    )
    for column in ("bpw_codes", "bpw_effective"):
        op.alter_column("versions", column, existing_type=sa.Double(), nullable=False)
