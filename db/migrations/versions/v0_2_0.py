"""The device fleet: jobs, turns and tokens, and what the server knows of a device's state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0.2.0"
down_revision: str | None = "v0.1.0"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    with op.batch_alter_table("ms_device") as batch:
        batch.add_column(sa.Column("model", sa.String(), nullable=True))
        batch.add_column(sa.Column("state", sa.String(), server_default="active", nullable=False))
        batch.add_column(sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("connected_until", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("stream", sa.String(), nullable=True))
        batch.create_index(op.f("ix_ms_device_model"), ["model"], unique=False)
    op.create_table(
        "ms_job",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("payload_sha256", sa.String(), nullable=False),
        sa.Column("payload_bytes", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("max_tries", sa.Integer(), nullable=False),
        sa.Column("time_limit_s", sa.Double(), nullable=False),
        sa.Column("lease", sa.String(), nullable=True),
        sa.Column("lease_device", sa.String(), nullable=True),
        sa.Column("lease_s", sa.Double(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("turn", sa.BigInteger(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("result_sha256", sa.String(), nullable=True),
        sa.Column("failure", sa.String(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('measure', 'optimise', 'shapes')", name=op.f("ck_ms_job_kind")),
        sa.CheckConstraint(
            "state IN ('queued', 'leased', 'done', 'failed', 'cancelled')", name=op.f("ck_ms_job_state")
        ),
        sa.ForeignKeyConstraint(["payload_sha256"], ["ms_artefact.sha256"], name=op.f("fk_ms_job_payload_sha256")),
        sa.ForeignKeyConstraint(["result_sha256"], ["ms_artefact.sha256"], name=op.f("fk_ms_job_result_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_job")),
        sa.UniqueConstraint("user", "key", name=op.f("uq_ms_job_user_key")),
        sa.UniqueConstraint("lease", name=op.f("uq_ms_job_lease")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_ms_job_queue", "ms_job", ["state", "device", "user", "priority"], unique=False)
    op.create_index("ix_ms_job_expiry", "ms_job", ["state", "lease_expires_at"], unique=False)
    op.create_index(op.f("ix_ms_job_target"), "ms_job", ["target"], unique=False)
    op.create_index(op.f("ix_ms_job_payload_sha256"), "ms_job", ["payload_sha256"], unique=False)
    op.create_index(op.f("ix_ms_job_result_sha256"), "ms_job", ["result_sha256"], unique=False)
    op.create_index(op.f("ix_ms_job_ended_at"), "ms_job", ["ended_at"], unique=False)
    op.create_table(
        "ms_turn",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_turn")),
        sa.UniqueConstraint("device", "user", name=op.f("uq_ms_turn_device_user")),
    )
    op.create_table(
        "ms_token",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=True),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("previous_hash", sa.String(), nullable=True),
        sa.Column("previous_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("scope IN ('admin', 'search', 'device')", name=op.f("ck_ms_token_scope")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_token")),
        sa.UniqueConstraint("name", name=op.f("uq_ms_token_name")),
        sa.UniqueConstraint("hash", name=op.f("uq_ms_token_hash")),
        sa.UniqueConstraint("previous_hash", name=op.f("uq_ms_token_previous_hash")),
    )
    op.create_index(op.f("ix_ms_token_device"), "ms_token", ["device"], unique=False)
