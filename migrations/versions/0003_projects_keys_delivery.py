"""Projects own everything; keys, uploads, webhooks, audit, metrics, logs; jobs can pause; checkpoints within a stage.

What is there already becomes the default project's. Idempotency keys of before are forgotten: they held no answer.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSONB = postgresql.JSONB(astext_type=sa.Text())
NOW = sa.text("now()")
EMPTY = sa.text("'{}'::jsonb")
DEFAULT = "proj-default"


def _time(name: str, *, nullable: bool = False) -> sa.Column[sa.DateTime]:
    default = None if nullable else NOW
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=nullable)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # rather fail than queue behind a long transaction and block everyone
    op.create_table(
        "projects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("limits", JSONB, server_default=EMPTY, nullable=False),
        sa.Column("weight", sa.Double(), server_default="1", nullable=False),
        sa.Column("charge", sa.Double(), server_default="0", nullable=False),
        _time("charged_at"),
        _time("created_at"),
        _time("archived_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )
    op.execute(f"INSERT INTO projects (id, name) VALUES ('{DEFAULT}', 'default')")
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("scopes", JSONB, server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("secret_sha256", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=True),
        _time("created_at"),
        _time("expires_at", nullable=True),
        _time("last_used_at", nullable=True),
        _time("revoked_at", nullable=True),
        sa.CheckConstraint("role IN ('viewer','member','admin')", name=op.f("ck_api_keys_role")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_api_keys_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index("ix_api_keys_project", "api_keys", ["project_id", "id"])
    for table in ("files", "jobs", "models"):
        op.add_column(table, sa.Column("project_id", sa.Text(), server_default=DEFAULT, nullable=False))
        op.alter_column(table, "project_id", server_default=None)
        op.create_foreign_key(f"fk_{table}_project_id_projects", table, "projects", ["project_id"], ["id"])
    _files()
    _jobs()
    op.drop_constraint("uq_models_name", "models")
    op.create_unique_constraint("uq_models_project_id_name", "models", ["project_id", "name"])
    op.drop_table("idempotency_keys")
    op.create_table(
        "idempotency_keys",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("answer", JSONB, nullable=False),
        _time("created_at"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_idempotency_keys_project_id_projects")),
        sa.PrimaryKeyConstraint("project_id", "key", name=op.f("pk_idempotency_keys")),
    )
    _delivery()


def _files() -> None:
    op.add_column("files", _time("deleted_at", nullable=True))
    op.create_index("ix_files_project", "files", ["project_id", "id"], postgresql_where=sa.text("deleted_at IS NULL"))
    op.create_index("ix_files_object", "files", ["object_key"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("mime_type", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("file_id", sa.Text(), nullable=True),
        _time("created_at"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('pending','completed','cancelled','expired')", name=op.f("ck_uploads_status")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_uploads_project_id_projects")),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_uploads_file_id_files")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("ix_uploads_pending", "uploads", ["expires_at"], postgresql_where=sa.text("status = 'pending'"))
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        _time("created_at"),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name=op.f("fk_upload_parts_upload_id_uploads")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_parts")),
    )
    op.create_index("ix_upload_parts_upload", "upload_parts", ["upload_id", "id"])


def _jobs() -> None:
    op.drop_constraint("ck_jobs_status", "jobs")
    op.create_check_constraint(
        op.f("ck_jobs_status"), "jobs", "status IN ('queued','running','paused','succeeded','failed','cancelled')"
    )
    op.drop_constraint("ck_jobs_desired_state", "jobs")
    op.create_check_constraint(op.f("ck_jobs_desired_state"), "jobs", "desired_state IN ('run','pause','cancel')")
    op.add_column("jobs", sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("metadata", JSONB, server_default=EMPTY, nullable=False))
    op.execute("UPDATE jobs SET metadata = coalesce(spec -> 'metadata', '{}'::jsonb)")
    op.add_column("jobs", sa.Column("version", sa.Integer(), server_default="1", nullable=False))
    op.add_column("jobs", sa.Column("adjustments", JSONB, server_default=EMPTY, nullable=False))
    op.add_column("jobs", sa.Column("submitted_by", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("traceparent", sa.Text(), nullable=True))
    op.create_index("ix_attempts_ended", "attempts", ["ended_at"])
    op.create_index("ix_jobs_project", "jobs", ["project_id", "id"])
    op.create_index(
        "ix_jobs_open",
        "jobs",
        ["project_id", "id"],
        postgresql_where=sa.text("status IN ('queued','running','paused')"),
    )
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.create_index(
        "ix_jobs_waiting", "jobs", ["priority", "created_at"], postgresql_where=sa.text("status = 'queued'")
    )
    for column in (
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("evidence", JSONB, server_default=EMPTY, nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("start_step", sa.Integer(), nullable=True),
        sa.Column("end_step", sa.Integer(), nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("gpu_seconds", sa.Double(), server_default="0", nullable=False),
    ):
        op.add_column("attempts", column)
    for column in (
        sa.Column("step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("metrics", JSONB, server_default=EMPTY, nullable=False),
        sa.Column("id", sa.Text(), nullable=True),
    ):
        op.add_column("checkpoints", column)
    op.execute("UPDATE checkpoints SET id = 'ftckpt-' || substr(md5(job_id || stage), 1, 26)")
    op.alter_column("checkpoints", "id", nullable=False)
    op.create_unique_constraint("uq_checkpoints_id", "checkpoints", ["id"])
    op.drop_constraint("pk_checkpoints", "checkpoints")
    op.create_primary_key("pk_checkpoints", "checkpoints", ["job_id", "stage", "step"])
    op.create_index("ix_checkpoints_job", "checkpoints", ["job_id", "id"])
    op.create_table(
        "metric_chunks",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("first_step", sa.Integer(), nullable=False),
        sa.Column("last_step", sa.Integer(), nullable=False),
        sa.Column("steps", JSONB, nullable=False),
        sa.Column("columns", JSONB, nullable=False),
        _time("created_at"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_metric_chunks_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "attempt", "stage", "first_step", name=op.f("pk_metric_chunks")),
    )
    op.create_table(
        "log_chunks",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        _time("created_at"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_log_chunks_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "attempt", "number", name=op.f("pk_log_chunks")),
    )
    op.add_column("workers", sa.Column("devices", sa.Integer(), server_default="1", nullable=False))
    op.add_column("workers", sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("is_draining", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def _delivery() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", JSONB, nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("is_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        _time("created_at"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_webhooks_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_project", "webhooks", ["project_id", "id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        _time("next_attempt_at"),
        sa.Column("response_status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        _time("created_at"),
        _time("delivered_at", nullable=True),
        sa.CheckConstraint("status IN ('pending','delivered','failed')", name=op.f("ck_webhook_deliveries_status")),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhooks.id"],
            name=op.f("fk_webhook_deliveries_webhook_id_webhooks"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["next_attempt_at"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("ix_webhook_deliveries_webhook", "webhook_deliveries", ["webhook_id", "id"])
    op.create_table(
        "audit_events",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("data", JSONB, server_default=EMPTY, nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
    )
    op.create_index("ix_audit_events_project", "audit_events", ["project_id", "id"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in ("audit_events", "webhook_deliveries", "webhooks", "idempotency_keys", "log_chunks", "metric_chunks"):
        op.drop_table(table)
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        _time("created_at"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_idempotency_keys_job_id_jobs")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency_keys")),
    )
    for column in ("devices", "memory_bytes", "is_draining"):
        op.drop_column("workers", column)
    op.execute("DELETE FROM checkpoints WHERE step > 0")
    op.drop_index("ix_checkpoints_job", table_name="checkpoints")
    op.drop_constraint("pk_checkpoints", "checkpoints")
    op.create_primary_key("pk_checkpoints", "checkpoints", ["job_id", "stage"])
    op.drop_constraint("uq_checkpoints_id", "checkpoints")
    for column in ("step", "bytes", "metrics", "id"):
        op.drop_column("checkpoints", column)
    for column in (
        "exit_code", "evidence", "stage", "start_step", "end_step", "peak_memory_bytes", "gpu_seconds",
    ):  # fmt: skip
        op.drop_column("attempts", column)
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.create_index("ix_jobs_waiting", "jobs", ["created_at"], postgresql_where=sa.text("status = 'queued'"))
    op.drop_index("ix_jobs_open", table_name="jobs")
    op.drop_index("ix_jobs_project", table_name="jobs")
    # The version before knows no pause: such a job waits again.
    op.execute("UPDATE jobs SET status = 'queued' WHERE status = 'paused'")
    op.execute("UPDATE jobs SET desired_state = 'run' WHERE desired_state = 'pause'")
    for name, rule in (
        ("ck_jobs_status", "status IN ('queued','running','succeeded','failed','cancelled')"),
        ("ck_jobs_desired_state", "desired_state IN ('run','cancel')"),
    ):
        op.drop_constraint(name, "jobs")
        op.create_check_constraint(op.f(name), "jobs", rule)
    op.drop_index("ix_attempts_ended", table_name="attempts")
    for column in ("priority", "metadata", "version", "adjustments", "submitted_by", "traceparent"):
        op.drop_column("jobs", column)
    op.drop_table("upload_parts")
    op.drop_table("uploads")
    op.drop_index("ix_files_object", table_name="files")
    op.drop_index("ix_files_project", table_name="files")
    op.drop_column("files", "deleted_at")
    # Fails where two projects use one name: rename one of them before going back.
    op.drop_constraint("uq_models_project_id_name", "models")
    op.create_unique_constraint("uq_models_name", "models", ["name"])
    for table in ("files", "jobs", "models"):
        op.drop_constraint(f"fk_{table}_project_id_projects", table)
        op.drop_column(table, "project_id")
    op.drop_table("api_keys")
    op.drop_table("projects")
