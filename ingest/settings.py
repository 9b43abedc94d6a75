"""The ingest tier's own settings (`INGEST_*`)."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ticketwire.settings import SharedSettings, Words


class IngestSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="INGEST_", frozen=True, extra="ignore")

    shared: SharedSettings = Field(default_factory=SharedSettings)
    host: str = Field(default="0.0.0.0", description="address on which messages are taken")
    port: int = Field(default=8000, ge=0, le=65_535, description="port on which messages are taken; 0 is a free one")
    admin_host: str = Field(default="0.0.0.0", description="address of the admin API")
    admin_port: int = Field(default=9000, ge=0, le=65_535, description="port of the admin API; 0 is a free one")
    admin_key: SecretStr | None = Field(
        default=None,
        description="bearer key of the admin API, 16 to 256 visible ASCII characters; without one it answers 403",
    )
    dead_letter_days: float = Field(
        default=30.0, gt=0.0, le=3_650.0, description="days after which a dead letter leaves Redis; PostgreSQL keeps it"
    )
    held_days: float = Field(
        default=30.0, ge=0.0, le=3_650.0, description="days after which a held message is rejected unseen; 0: never"
    )
    internal_host: str = Field(default="0.0.0.0", description="address of /livez, /readyz and /metrics")
    internal_port: int = Field(default=9090, ge=0, le=65_535, description="port of /livez, /readyz and /metrics")
    cors_origins: Words = Field(
        default=(), description="other hosts' pages that may post here: https://desk.example, … or *"
    )

    max_body_bytes: int = Field(
        default=131_072,
        ge=1_024,
        le=16_777_216,
        description="largest body of /chat/send; 8,000 characters take up to 96,000 bytes in a form",
    )
    max_batch_bytes: int = Field(default=4_194_304, ge=1_024, le=268_435_456, description="largest body of /chat/batch")
    max_batch_lines: int = Field(default=1_000, ge=1, le=100_000, description="most lines of a /chat/batch")
    body_timeout_ms: int = Field(
        default=10_000, ge=10, le=600_000, description="how long a request's body may take to arrive"
    )

    deadline_ms: int = Field(
        default=5_000, ge=10, le=600_000, description="how long a message is tried before its sender gets 503"
    )
    group_messages: int = Field(
        default=128,
        ge=1,
        le=500,
        description="most messages in one Redis call: enough to share its cost, few enough that the next call is made "
        "ready while Redis works on this one",
    )
    group_bytes: int = Field(default=1_048_576, ge=1, le=67_108_864, description="about the largest Redis call")
    max_waiting: int = Field(
        default=10_000, ge=1, le=1_000_000, description="most messages waiting for Redis; further ones get 503"
    )
    max_waiting_bytes: int = Field(
        default=67_108_864, ge=1, le=4_294_967_296, description="most bytes of messages waiting for Redis"
    )
    idempotency_hours: float = Field(
        default=24.0, gt=0.0, le=8_760.0, description="how long a caller's idempotency key is remembered"
    )

    max_backlog: int = Field(
        default=100_000, ge=1, description="entries on one partition's stream above which its messages get 503"
    )
    low_backlog: int = Field(
        default=80_000, ge=0, description="entries at which a partition closed by max_backlog opens again"
    )
    max_redis_memory: float = Field(
        default=0.85, gt=0.0, le=1.0, description="used share of Redis's maxmemory above which all messages get 503"
    )
    low_redis_memory: float = Field(
        default=0.80, ge=0.0, le=1.0, description="used share at which a door closed by max_redis_memory opens again"
    )
    measure_ms: int = Field(default=500, ge=10, le=60_000, description="how often backlog and memory are measured")
    remember_answers: int = Field(
        default=50_000,
        ge=0,
        le=10_000_000,
        description="newest messages whose whereabouts are asked after when Redis may have lost some; 200 bytes each",
    )
    archive_connections: int = Field(
        default=4, ge=1, le=64, description="PostgreSQL connections for questions about a message's fate"
    )
    archive_timeout_ms: int = Field(default=2_000, ge=100, le=600_000, description="longest wait for PostgreSQL")

    @field_validator("admin_key")
    @classmethod
    def _admin_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch("[!-~]{16,256}", value.get_secret_value()):
            raise ValueError("must have 16 to 256 visible ASCII characters")
        return value

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.low_backlog > self.max_backlog:
            raise ValueError(f"INGEST_LOW_BACKLOG is {self.low_backlog}, above INGEST_MAX_BACKLOG {self.max_backlog}")
        if self.low_redis_memory > self.max_redis_memory:
            raise ValueError(
                f"INGEST_LOW_REDIS_MEMORY is {self.low_redis_memory}, "
                f"above INGEST_MAX_REDIS_MEMORY {self.max_redis_memory}"
            )
        return self
