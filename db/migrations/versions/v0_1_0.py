"""The first schema: devices, targets, measurements, predictors, spaces, searches and exports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0.1.0"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

APPEND_ONLY = "measurements are append-only"


def upgrade() -> None:
    create_tables()
    make_measurements_append_only()


def make_measurements_append_only() -> None:
    # A later migration that rebuilds ms_measurement in batch mode loses the triggers: make them again there.
    dialect = op.get_context().dialect.name
    if dialect == "sqlite":
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER ms_measurement_no_{event.lower()} BEFORE {event} ON ms_measurement "
                f"BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END"
            )
    elif dialect == "postgresql":
        op.execute(
            "CREATE FUNCTION ms_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{APPEND_ONLY}' "
            "USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        op.execute(
            "CREATE TRIGGER ms_measurement_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ms_measurement "
            "FOR EACH STATEMENT EXECUTE FUNCTION ms_refuse_change()"
        )


def create_tables() -> None:
    op.create_table(
        "ms_artefact",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_ms_artefact")),
    )
    op.create_table(
        "ms_device",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_device")),
        sa.UniqueConstraint("name", name=op.f("uq_ms_device_name")),
    )
    op.create_table(
        "ms_hyperspace",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_hyperspace")),
        sa.UniqueConstraint("name", name=op.f("uq_ms_hyperspace_name")),
    )
    op.create_table(
        "ms_kernel",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_kernel")),
        sa.UniqueConstraint("hash", name=op.f("uq_ms_kernel_hash")),
    )
    op.create_index(op.f("ix_ms_kernel_kind"), "ms_kernel", ["kind"], unique=False)
    op.create_table(
        "ms_run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("finished", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_run")),
        sa.UniqueConstraint("name", name=op.f("uq_ms_run_name")),
    )
    op.create_table(
        "ms_model",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("info", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["ms_artefact.sha256"], name=op.f("fk_ms_model_sha256")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_ms_model")),
    )
    op.create_table(
        "ms_quality",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hyperspace_id", sa.Integer(), nullable=False),
        sa.Column("teacher_sha256", sa.String(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("window", sa.Integer(), nullable=False),
        sa.Column("resolution", sa.Integer(), nullable=False),
        sa.Column("sub_stage", sa.String(), nullable=False),
        sa.Column("nsr", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["hyperspace_id"], ["ms_hyperspace.id"], name=op.f("fk_ms_quality_hyperspace_id")),
        sa.ForeignKeyConstraint(["teacher_sha256"], ["ms_artefact.sha256"], name=op.f("fk_ms_quality_teacher_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_quality")),
        sa.UniqueConstraint(
            "hyperspace_id",
            "teacher_sha256",
            "stage",
            "block",
            "window",
            "resolution",
            "sub_stage",
            name="uq_ms_quality_sub_stage",
        ),
    )
    op.create_table(
        "ms_space",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("encoding", sa.String(), nullable=False),
        sa.Column("hyperspace_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["hyperspace_id"], ["ms_hyperspace.id"], name=op.f("fk_ms_space_hyperspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_space")),
        sa.UniqueConstraint("encoding", name=op.f("uq_ms_space_encoding")),
    )
    op.create_index(op.f("ix_ms_space_hyperspace_id"), "ms_space", ["hyperspace_id"], unique=False)
    op.create_table(
        "ms_target",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("runtime", sa.String(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("cores", sa.String(), nullable=True),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["ms_device.id"], name=op.f("fk_ms_target_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_target")),
        sa.UniqueConstraint("name", name=op.f("uq_ms_target_name")),
    )
    op.create_index(op.f("ix_ms_target_device_id"), "ms_target", ["device_id"], unique=False)
    op.create_table(
        "ms_measurement",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target_id", sa.Integer(), nullable=False),
        sa.Column("kernel_id", sa.Integer(), nullable=True),
        sa.Column("model_sha256", sa.String(), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("spread_ms", sa.Double(), nullable=True),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("probe_before_ms", sa.Double(), nullable=True),
        sa.Column("probe_after_ms", sa.Double(), nullable=True),
        sa.Column("probe_best_ms", sa.Double(), nullable=True),
        sa.Column("disturbed", sa.Boolean(), nullable=False),
        sa.Column("sitting", sa.String(), nullable=False),
        sa.Column("runtime_version", sa.String(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(kernel_id IS NULL) <> (model_sha256 IS NULL)", name=op.f("ck_ms_measurement_one_subject")),
        sa.ForeignKeyConstraint(["kernel_id"], ["ms_kernel.id"], name=op.f("fk_ms_measurement_kernel_id")),
        sa.ForeignKeyConstraint(["model_sha256"], ["ms_model.sha256"], name=op.f("fk_ms_measurement_model_sha256")),
        sa.ForeignKeyConstraint(["target_id"], ["ms_target.id"], name=op.f("fk_ms_measurement_target_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_measurement")),
    )
    op.create_index(op.f("ix_ms_measurement_kernel_id"), "ms_measurement", ["kernel_id"], unique=False)
    op.create_index(op.f("ix_ms_measurement_model_sha256"), "ms_measurement", ["model_sha256"], unique=False)
    op.create_index(op.f("ix_ms_measurement_target_id"), "ms_measurement", ["target_id"], unique=False)
    op.create_table(
        "ms_predictor",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("runtime_version", sa.String(), nullable=False),
        sa.Column("artefact_sha256", sa.String(), nullable=False),
        sa.Column("held_out", sa.JSON(), nullable=False),
        sa.Column("kernels", sa.Integer(), nullable=False),
        sa.Column("networks", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["artefact_sha256"], ["ms_artefact.sha256"], name=op.f("fk_ms_predictor_artefact_sha256")
        ),
        sa.ForeignKeyConstraint(["target_id"], ["ms_target.id"], name=op.f("fk_ms_predictor_target_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_predictor")),
        sa.UniqueConstraint("target_id", "version", name=op.f("uq_ms_predictor_target_id_version")),
    )
    op.create_table(
        "ms_subnet",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("space_id", sa.Integer(), nullable=False),
        sa.Column("encoding", sa.String(), nullable=False),
        sa.Column("macs", sa.BigInteger(), nullable=False),
        sa.Column("params", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["ms_space.id"], name=op.f("fk_ms_subnet_space_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_subnet")),
        sa.UniqueConstraint("space_id", "encoding", name=op.f("uq_ms_subnet_space_id_encoding")),
    )
    op.create_table(
        "ms_supernet",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("space_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("artefact_sha256", sa.String(), nullable=True),
        sa.Column("data_fingerprint", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["artefact_sha256"], ["ms_artefact.sha256"], name=op.f("fk_ms_supernet_artefact_sha256")
        ),
        sa.ForeignKeyConstraint(["space_id"], ["ms_space.id"], name=op.f("fk_ms_supernet_space_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_supernet")),
        sa.UniqueConstraint("name", name=op.f("uq_ms_supernet_name")),
    )
    op.create_index(op.f("ix_ms_supernet_space_id"), "ms_supernet", ["space_id"], unique=False)
    op.create_table(
        "ms_latency_table",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("predictor_id", sa.Integer(), nullable=False),
        sa.Column("space", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("artefact_sha256", sa.String(), nullable=False),
        sa.Column("constant_ms", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["artefact_sha256"], ["ms_artefact.sha256"], name=op.f("fk_ms_latency_table_artefact_sha256")
        ),
        sa.ForeignKeyConstraint(["predictor_id"], ["ms_predictor.id"], name=op.f("fk_ms_latency_table_predictor_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_latency_table")),
        sa.UniqueConstraint(
            "predictor_id",
            "space",
            "fingerprint",
            name=op.f("uq_ms_latency_table_predictor_id_space_fingerprint"),
        ),
    )
    op.create_table(
        "ms_study",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("space_id", sa.Integer(), nullable=True),
        sa.Column("supernet_id", sa.Integer(), nullable=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("predictors", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('space', 'subnet')", name=op.f("ck_ms_study_kind")),
        sa.ForeignKeyConstraint(["space_id"], ["ms_space.id"], name=op.f("fk_ms_study_space_id")),
        sa.ForeignKeyConstraint(["supernet_id"], ["ms_supernet.id"], name=op.f("fk_ms_study_supernet_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_study")),
        sa.UniqueConstraint("name", name=op.f("uq_ms_study_name")),
    )
    op.create_index(op.f("ix_ms_study_space_id"), "ms_study", ["space_id"], unique=False)
    op.create_index(op.f("ix_ms_study_supernet_id"), "ms_study", ["supernet_id"], unique=False)
    op.create_table(
        "ms_export",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("trial_number", sa.Integer(), nullable=True),
        sa.Column("subnet_id", sa.Integer(), nullable=False),
        sa.Column("target_id", sa.Integer(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("artefact_sha256", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("top1", sa.Double(), nullable=True),
        sa.Column("top1_fake_quant", sa.Double(), nullable=True),
        sa.Column("predicted_ms", sa.Double(), nullable=True),
        sa.Column("interval_low_ms", sa.Double(), nullable=True),
        sa.Column("interval_high_ms", sa.Double(), nullable=True),
        sa.Column("measured_ms", sa.Double(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("info", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["artefact_sha256"], ["ms_artefact.sha256"], name=op.f("fk_ms_export_artefact_sha256")),
        sa.ForeignKeyConstraint(["study_id"], ["ms_study.id"], name=op.f("fk_ms_export_study_id")),
        sa.ForeignKeyConstraint(["subnet_id"], ["ms_subnet.id"], name=op.f("fk_ms_export_subnet_id")),
        sa.ForeignKeyConstraint(["target_id"], ["ms_target.id"], name=op.f("fk_ms_export_target_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ms_export")),
    )
    op.create_index(op.f("ix_ms_export_study_id"), "ms_export", ["study_id"], unique=False)
    op.create_index(op.f("ix_ms_export_subnet_id"), "ms_export", ["subnet_id"], unique=False)
    op.create_index(op.f("ix_ms_export_target_id"), "ms_export", ["target_id"], unique=False)
