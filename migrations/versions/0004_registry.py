"""The registry that people browse: aliases, evaluations as records, judgements, files that versions share.

A version's files are rows with the object that holds each, instead of one prefix. The scores of before become one
evaluation a version. A job may come without files of its own: an evaluation of a version has none to train on.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSONB = postgresql.JSONB(astext_type=sa.Text())
NOW = sa.text("now()")
EMPTY = sa.text("'{}'::jsonb")
NONE = sa.text("'[]'::jsonb")


def _time(name: str) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=NOW, nullable=False)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # rather fail than queue behind a long transaction and block everyone
    op.alter_column("jobs", "training_file", nullable=True)
    op.alter_column("jobs", "validation_file", nullable=True)
    _models()
    _versions()
    _evals()
    op.create_table(
        "judgements",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("judge", sa.Text(), nullable=False),
        sa.Column("prompts_sha256", sa.Text(), nullable=False),
        sa.Column("template_sha256", sa.Text(), nullable=False),
        sa.Column("contestants", JSONB, nullable=False),
        sa.Column("verdicts", JSONB, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=True),
        _time("created_at"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_judgements_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judgements")),
    )
    op.create_index("ix_judgements_project", "judgements", ["project_id", "id"])


def _models() -> None:
    op.add_column("models", sa.Column("display_name", sa.Text(), nullable=True))
    op.add_column("models", sa.Column("task", sa.Text(), server_default="text-generation", nullable=False))
    op.add_column("models", sa.Column("visibility", sa.Text(), server_default="project", nullable=False))
    op.add_column("models", sa.Column("licence", sa.Text(), nullable=True))
    op.add_column("models", sa.Column("card", sa.Text(), nullable=True))
    op.add_column("models", sa.Column("tags", JSONB, server_default=NONE, nullable=False))
    op.add_column("models", sa.Column("gates", JSONB, server_default=EMPTY, nullable=False))
    op.add_column("models", sa.Column("revision", sa.Integer(), server_default="1", nullable=False))
    op.add_column("models", _time("updated_at"))
    op.create_check_constraint("visibility", "models", "visibility IN ('project','installation')")
    op.create_index("ix_models_tags", "models", ["tags"], postgresql_using="gin")


def _versions() -> None:
    op.add_column("versions", sa.Column("is_newest", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    op.add_column("versions", sa.Column("weights_bytes", sa.BigInteger(), nullable=True))
    op.add_column("versions", sa.Column("subject", sa.Text(), nullable=True))
    op.add_column("versions", sa.Column("scheme", sa.Text(), nullable=True))
    op.add_column("versions", sa.Column("training_file", sa.Text(), nullable=True))
    op.execute(
        """
        UPDATE versions SET
            is_newest = NOT EXISTS (
                SELECT FROM versions later WHERE later.model_id = versions.model_id AND later.number > versions.number
            ),
            weights_bytes = coalesce((manifest->'quantization'->>'model_bytes')::bigint, bytes),
            subject = CASE jobs.spec->'method'->>'type'
                WHEN 'quantize' THEN 'quantized' ELSE jobs.spec->'method'->>'type' END,
            scheme = manifest->'quantization'->>'scheme',
            training_file = jobs.training_file
        FROM jobs WHERE jobs.id = versions.job_id
        """
    )
    op.alter_column("versions", "weights_bytes", nullable=False)
    op.alter_column("versions", "subject", nullable=False)
    op.create_index("ix_versions_newest", "versions", ["model_id"], unique=True, postgresql_where=sa.text("is_newest"))
    op.create_table(
        "version_files",
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_version_files_version_id_versions")),
        sa.PrimaryKeyConstraint("version_id", "path", name=op.f("pk_version_files")),
    )
    op.create_index("ix_version_files_object_key", "version_files", ["object_key"])
    op.execute(
        """
        INSERT INTO version_files (version_id, path, bytes, sha256, object_key)
        SELECT versions.id, file->>'path', (file->>'bytes')::bigint, file->>'sha256',
               versions.prefix || '/' || (file->>'path')
        FROM versions, jsonb_array_elements(manifest->'files') AS file
        """
    )
    op.drop_column("versions", "prefix")
    op.create_table(
        "aliases",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        _time("updated_at"),
        sa.Column("updated_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_aliases_model_id_models")),
        sa.ForeignKeyConstraint(
            ["model_id", "number"], ["versions.model_id", "versions.number"], name="fk_aliases_version"
        ),
        sa.PrimaryKeyConstraint("model_id", "name", name=op.f("pk_aliases")),
    )
    op.create_table(
        "alias_moves",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("from_number", sa.Integer(), nullable=True),
        sa.Column("to_number", sa.Integer(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("gate", JSONB, nullable=True),
        _time("created_at"),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_alias_moves_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_moves")),
    )
    op.create_index("ix_alias_moves_alias", "alias_moves", ["model_id", "alias", "id"])


def _evals() -> None:
    op.create_table(
        "evals",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("environment", JSONB, nullable=False),
        sa.Column("items_key", sa.Text(), nullable=True),
        _time("created_at"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_evals_version_id_versions")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_evals_job_id_jobs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_evals_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evals")),
    )
    op.create_index("ix_evals_version", "evals", ["version_id", "id"])
    op.execute(
        """
        INSERT INTO evals (id, version_id, job_id, engine, environment, items_key, created_at)
        SELECT 'eval-' || left(md5(versions.id::text), 26), versions.id, job_id, manifest->'environment'->>'engine',
               manifest->'environment', items.object_key, created_at
        FROM versions LEFT JOIN version_files items ON items.version_id = versions.id AND items.path = 'evals.json'
        """
    )
    op.add_column("eval_results", sa.Column("eval_id", sa.Text(), nullable=True))
    op.add_column("eval_results", sa.Column("details", JSONB, server_default=EMPTY, nullable=False))
    op.add_column("eval_results", sa.Column("is_headline", sa.Boolean(), server_default="false", nullable=False))
    op.execute(
        """
        UPDATE eval_results SET eval_id = evals.id, is_headline = eval_results.id = (
            SELECT min(first.id) FROM eval_results first
            WHERE (first.version_id, first.task, first.subject)
                = (eval_results.version_id, eval_results.task, versions.subject)
        ) FROM evals JOIN versions ON versions.id = evals.version_id WHERE evals.version_id = eval_results.version_id
        """
    )
    op.execute("UPDATE eval_results SET is_headline = false WHERE is_headline IS NULL")
    op.alter_column("eval_results", "eval_id", nullable=False)
    op.create_foreign_key("fk_eval_results_eval_id_evals", "eval_results", "evals", ["eval_id"], ["id"])
    op.drop_constraint("uq_eval_results_version_id_subject_task_metric", "eval_results")
    op.create_unique_constraint(
        "uq_eval_results_eval_id_subject_task_metric", "eval_results", ["eval_id", "subject", "task", "metric"]
    )
    op.create_index("ix_eval_results_version", "eval_results", ["version_id", "id"])
    op.create_index(
        "ix_eval_results_headline",
        "eval_results",
        ["task", "value", "version_id"],
        postgresql_where=sa.text("is_headline"),
    )


def downgrade() -> None:
    """Evaluations of later jobs, aliases and judgements are lost, and so are versions whose files have no prefix."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("judgements")
    op.drop_index("ix_eval_results_headline", table_name="eval_results")
    op.drop_index("ix_eval_results_version", table_name="eval_results")
    op.execute(
        """
        DELETE FROM eval_results WHERE eval_id NOT IN (
            SELECT evals.id FROM evals
            JOIN versions ON (versions.id, versions.job_id) = (evals.version_id, evals.job_id)
        )
        """
    )
    op.drop_constraint("uq_eval_results_eval_id_subject_task_metric", "eval_results")
    op.create_unique_constraint(
        "uq_eval_results_version_id_subject_task_metric", "eval_results", ["version_id", "subject", "task", "metric"]
    )
    for column in ("is_headline", "details", "eval_id"):
        op.drop_column("eval_results", column)
    op.drop_table("evals")
    op.drop_table("alias_moves")
    op.drop_table("aliases")
    op.add_column("versions", sa.Column("prefix", sa.Text(), nullable=True))
    op.execute(
        """
        UPDATE versions SET prefix = (
            SELECT left(object_key, -length(path) - 1) FROM version_files
            WHERE version_id = versions.id AND right(object_key, length(path)) = path LIMIT 1
        )
        """
    )
    op.execute("DELETE FROM eval_results USING versions WHERE versions.id = version_id AND prefix IS NULL")
    op.drop_table("version_files")
    op.execute("DELETE FROM versions WHERE prefix IS NULL")
    op.alter_column("versions", "prefix", nullable=False)
    op.drop_index("ix_versions_newest", table_name="versions")
    for column in ("training_file", "scheme", "subject", "weights_bytes", "is_newest"):
        op.drop_column("versions", column)
    op.drop_constraint(op.f("ck_models_visibility"), "models")
    op.drop_index("ix_models_tags", table_name="models")
    for column in (
        "updated_at", "revision", "gates", "tags", "card", "licence", "visibility", "task", "display_name",
    ):  # fmt: skip
        op.drop_column("models", column)
    op.execute("DELETE FROM jobs WHERE training_file IS NULL OR validation_file IS NULL")
    op.alter_column("jobs", "validation_file", nullable=False)
    op.alter_column("jobs", "training_file", nullable=False)
