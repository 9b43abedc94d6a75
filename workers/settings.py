"""The worker tier's own settings (`WORKER_*`)."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ticketwire.settings import SharedSettings


class WorkerSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="WORKER_", frozen=True, extra="ignore")

    shared: SharedSettings = Field(default_factory=SharedSettings)
    name: str = Field(
        default="", pattern=r"^[A-Za-z0-9._-]{0,64}$", description="for logs and admin; the host's name when empty"
    )
    internal_host: str = Field(default="0.0.0.0", description="address of /livez, /readyz and /metrics")
    internal_port: int = Field(default=9090, ge=0, le=65_535, description="port of /livez, /readyz and /metrics")
    batch: int = Field(default=500, ge=1, le=500, description="most entries of a partition handled at once")
    max_deliveries: int = Field(
        default=5, ge=2, le=1_000, description="an entry handed out so often whose worker died each time is buried"
    )
    archive_connections: int = Field(default=2, ge=1, le=64, description="PostgreSQL connections of this worker")
    archive_timeout_ms: int = Field(default=10_000, ge=100, le=600_000, description="longest wait for PostgreSQL")
    backoff_base_ms: int = Field(default=100, ge=1, le=60_000, description="first wait while something is out of reach")
    backoff_cap_ms: int = Field(default=5_000, ge=1, le=600_000, description="longest such wait")
