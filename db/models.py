"""The tables: one class a noun of the design.

Every table is prefixed `ms_`, because Optuna keeps its own tables (`studies`, `trials`, ...) in the same
database. Units are in the names: `_ms` milliseconds, `_bytes` bytes, `macs` multiply-accumulates. A change here
needs a new migration in `milliseek.db.migrations.versions`; a test compares the two.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, CheckConstraint, Double, ForeignKey, Index, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from .columns import UtcDateTime, utc_now

PREFIX = "ms_"
NAMING = {
    # Constraints need names to be changed later; SQLite's batch migrations find them only by name.
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of all tables: when a row was written, and how Python types become columns."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        float: Double,  # SQLAlchemy 2.0 and 2.1 disagree on the default
        dict[str, Any]: JSON,
        list[str]: JSON,
    }

    created_at: Mapped[datetime] = mapped_column(default=utc_now, sort_order=1000)


class Device(Base):
    """A physical machine; `name` is its stable id, `facts` what it said about itself.

    Jobs may ask for its `model` instead of its name. `state` is active, draining (finishes what it holds) or removed
    (kept for its measurements only); an agent is connected while now < `connected_until`,
    over the `stream` of this random name.
    """

    __tablename__ = "ms_device"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    facts: Mapped[dict[str, Any]]
    model: Mapped[str | None] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(default="active", server_default="active")
    last_seen_at: Mapped[datetime | None]
    connected_until: Mapped[datetime | None]
    stream: Mapped[str | None]

    @property
    def connected(self) -> bool:
        """Whether an agent of it is connected now, to any server of this database."""
        return self.connected_until is not None and self.connected_until > utc_now()


class Target(Base):
    """What latency is asked for; `name` is the canonical `device/runtime/precision[/Nt][@cores]`."""

    __tablename__ = "ms_target"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("ms_device.id"), index=True)
    runtime: Mapped[str]
    precision: Mapped[str]
    threads: Mapped[int]
    cores: Mapped[str | None]
    settings: Mapped[dict[str, Any]]

    device: Mapped[Device] = relationship(lazy="joined", innerjoin=True)


class Artefact(Base):
    """A file of the artefact store, named by the SHA-256 of its bytes."""

    __tablename__ = "ms_artefact"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)


class Model(Base):
    """A network file; its bytes are the artefact of the same SHA-256."""

    __tablename__ = "ms_model"

    sha256: Mapped[str] = mapped_column(ForeignKey("ms_artefact.sha256"), primary_key=True)
    format: Mapped[str]
    name: Mapped[str]
    info: Mapped[dict[str, Any]]


class Kernel(Base):
    """What a runtime executes, identified by the stable `hash` of its `spec`."""

    __tablename__ = "ms_kernel"

    id: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(index=True)
    spec: Mapped[dict[str, Any]]


class Measurement(Base):
    """One timed visit of a kernel or of a network on a target.

    Append-only: triggers refuse UPDATE and DELETE. `disturbed` means that the probes said the machine was not
    itself; `sitting` is the UUID of the measuring session, `spread_ms` the spread of its `runs`.
    """

    __tablename__ = "ms_measurement"
    __table_args__ = (CheckConstraint("(kernel_id IS NULL) <> (model_sha256 IS NULL)", name="one_subject"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    target_id: Mapped[int] = mapped_column(ForeignKey("ms_target.id"), index=True)
    kernel_id: Mapped[int | None] = mapped_column(ForeignKey("ms_kernel.id"), index=True)
    model_sha256: Mapped[str | None] = mapped_column(ForeignKey("ms_model.sha256"), index=True)
    latency_ms: Mapped[float]
    spread_ms: Mapped[float | None]
    runs: Mapped[int]
    probe_before_ms: Mapped[float | None]
    probe_after_ms: Mapped[float | None]
    probe_best_ms: Mapped[float | None]
    disturbed: Mapped[bool]
    sitting: Mapped[str]
    runtime_version: Mapped[str]
    measured_at: Mapped[datetime]


class Predictor(Base):
    """One version of a target's predictor; `kernels` and `networks` count what it was fitted on."""

    __tablename__ = "ms_predictor"
    __table_args__ = (UniqueConstraint("target_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    target_id: Mapped[int] = mapped_column(ForeignKey("ms_target.id"))
    version: Mapped[int]
    runtime_version: Mapped[str]
    artefact_sha256: Mapped[str] = mapped_column(ForeignKey("ms_artefact.sha256"))
    held_out: Mapped[dict[str, Any]]
    kernels: Mapped[int]
    networks: Mapped[int]

    target: Mapped[Target] = relationship(lazy="joined", innerjoin=True)


class LatencyTable(Base):
    """A space compiled for one predictor; `fingerprint` names the block keys that it was compiled from."""

    __tablename__ = "ms_latency_table"
    __table_args__ = (UniqueConstraint("predictor_id", "space", "fingerprint"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    predictor_id: Mapped[int] = mapped_column(ForeignKey("ms_predictor.id"))
    space: Mapped[str]
    fingerprint: Mapped[str]
    artefact_sha256: Mapped[str] = mapped_column(ForeignKey("ms_artefact.sha256"))
    constant_ms: Mapped[float]


class Hyperspace(Base):
    """The choices from which spaces are made."""

    __tablename__ = "ms_hyperspace"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    definition: Mapped[dict[str, Any]]


class Space(Base):
    """One choice per stage; `encoding` such as `onnxw-151122-023231` names it everywhere."""

    __tablename__ = "ms_space"

    id: Mapped[int] = mapped_column(primary_key=True)
    encoding: Mapped[str] = mapped_column(unique=True)
    hyperspace_id: Mapped[int] = mapped_column(ForeignKey("ms_hyperspace.id"), index=True)

    hyperspace: Mapped[Hyperspace] = relationship(lazy="joined", innerjoin=True)


class Subnet(Base):
    """One network of a space; an encoding means a network only together with its space."""

    __tablename__ = "ms_subnet"
    __table_args__ = (UniqueConstraint("space_id", "encoding"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    space_id: Mapped[int] = mapped_column(ForeignKey("ms_space.id"))
    encoding: Mapped[str]
    macs: Mapped[int] = mapped_column(BigInteger)
    params: Mapped[int] = mapped_column(BigInteger)

    space: Mapped[Space] = relationship(lazy="joined", innerjoin=True)


class Quality(Base):
    """One row of a quality table: how well a sub-stage reproduces its teacher's stage (low `nsr` is good)."""

    __tablename__ = "ms_quality"
    __table_args__ = (
        UniqueConstraint(
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

    id: Mapped[int] = mapped_column(primary_key=True)
    hyperspace_id: Mapped[int] = mapped_column(ForeignKey("ms_hyperspace.id"))
    teacher_sha256: Mapped[str] = mapped_column(ForeignKey("ms_artefact.sha256"))
    stage: Mapped[int]
    block: Mapped[int]
    window: Mapped[int]
    resolution: Mapped[int]
    sub_stage: Mapped[str]
    nsr: Mapped[float]


class Supernet(Base):
    """Trained weights shared by all subnets of a space; the artefact is the latest checkpoint."""

    __tablename__ = "ms_supernet"

    id: Mapped[int] = mapped_column(primary_key=True)
    space_id: Mapped[int] = mapped_column(ForeignKey("ms_space.id"), index=True)
    name: Mapped[str] = mapped_column(unique=True)
    phase: Mapped[str]
    step: Mapped[int]
    config: Mapped[dict[str, Any]]
    artefact_sha256: Mapped[str | None] = mapped_column(ForeignKey("ms_artefact.sha256"))
    data_fingerprint: Mapped[str]

    space: Mapped[Space] = relationship(lazy="joined", innerjoin=True)


class Study(Base):
    """What milliseek knows about one search; `name` is the `study_name` of Optuna's row.

    `predictors` lists the predictor versions (`TARGET@VERSION`) that answered it.
    """

    __tablename__ = "ms_study"
    __table_args__ = (CheckConstraint("kind IN ('space', 'subnet')", name="kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    space_id: Mapped[int | None] = mapped_column(ForeignKey("ms_space.id"), index=True)
    supernet_id: Mapped[int | None] = mapped_column(ForeignKey("ms_supernet.id"), index=True)
    config: Mapped[dict[str, Any]]
    predictors: Mapped[list[str]]


class Export(Base):
    """A file made from a subnet, with its checked accuracy (a fraction), predicted and measured latency."""

    __tablename__ = "ms_export"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("ms_study.id"), index=True)
    trial_number: Mapped[int | None]
    subnet_id: Mapped[int] = mapped_column(ForeignKey("ms_subnet.id"), index=True)
    target_id: Mapped[int] = mapped_column(ForeignKey("ms_target.id"), index=True)
    format: Mapped[str]
    precision: Mapped[str]
    artefact_sha256: Mapped[str] = mapped_column(ForeignKey("ms_artefact.sha256"))
    path: Mapped[str]
    top1: Mapped[float | None]
    top1_fake_quant: Mapped[float | None]
    predicted_ms: Mapped[float | None]
    interval_low_ms: Mapped[float | None]
    interval_high_ms: Mapped[float | None]
    measured_ms: Mapped[float | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    info: Mapped[dict[str, Any]]

    subnet: Mapped[Subnet] = relationship(lazy="joined", innerjoin=True)
    target: Mapped[Target] = relationship(lazy="joined", innerjoin=True)


class Run(Base):
    """A run of several phases that can be resumed: `state` maps each finished phase to its result."""

    __tablename__ = "ms_run"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    config: Mapped[dict[str, Any]]
    state: Mapped[dict[str, Any]]
    finished: Mapped[bool] = mapped_column(default=False)


class Job(Base):
    """Something that a device is asked to do with a model file; `milliseek.db.jobs` says how it moves on.

    `device` is what was asked for, a device's name or its model; `lease_device` is the device that holds or held it,
    `turn` the number of this try among all that the device was handed. A `lease` is kept until there is a new one.
    """

    __tablename__ = "ms_job"
    __table_args__ = (
        UniqueConstraint("user", "key"),
        CheckConstraint("kind IN ('measure', 'optimise', 'shapes')", name="kind"),
        CheckConstraint("state IN ('queued', 'leased', 'done', 'failed', 'cancelled')", name="state"),
        Index("ix_ms_job_queue", "state", "device", "user", "priority"),
        Index("ix_ms_job_expiry", "state", "lease_expires_at"),
        {"sqlite_autoincrement": True},  # an id that was deleted never becomes another job's
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[str]
    key: Mapped[str]
    target: Mapped[str] = mapped_column(index=True)
    device: Mapped[str]
    kind: Mapped[str]
    options: Mapped[dict[str, Any]]
    payload_sha256: Mapped[str] = mapped_column(ForeignKey("ms_artefact.sha256"), index=True)
    payload_bytes: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[int]
    state: Mapped[str] = mapped_column(default="queued")
    tries: Mapped[int] = mapped_column(default=0)
    max_tries: Mapped[int]
    time_limit_s: Mapped[float]
    lease: Mapped[str | None] = mapped_column(unique=True)
    lease_device: Mapped[str | None]
    lease_s: Mapped[float | None]
    lease_expires_at: Mapped[datetime | None]
    turn: Mapped[int | None] = mapped_column(BigInteger)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    result_sha256: Mapped[str | None] = mapped_column(ForeignKey("ms_artefact.sha256"), index=True)
    failure: Mapped[str | None]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)


class Turn(Base):
    """When a device last served a user, as the number of the try: who waited longest goes first."""

    __tablename__ = "ms_turn"
    __table_args__ = (UniqueConstraint("device", "user"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    device: Mapped[str]
    user: Mapped[str]
    number: Mapped[int] = mapped_column(BigInteger)


class Token(Base):
    """Who may call the service, and for what; of a secret only the SHA-256 is known (`hash`).

    After a rotation the `previous_hash` holds until `previous_expires_at`.
    """

    __tablename__ = "ms_token"
    __table_args__ = (CheckConstraint("scope IN ('admin', 'search', 'device')", name="scope"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    scope: Mapped[str]
    device: Mapped[str | None] = mapped_column(index=True)
    hash: Mapped[str] = mapped_column(unique=True)
    previous_hash: Mapped[str | None] = mapped_column(unique=True)
    previous_expires_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
