"""Settings on which all tiers must agree (`TICKETWIRE_*`), and how a tier's settings are read.

Only the `__main__` modules and the command line build settings from the environment; everything else is given them.
A secret may also come from a file: `TICKETWIRE_REDIS_URL_FILE=/run/secrets/redis-url`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ticketwire.errors import SettingsError

REDIS_SCHEMES = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)


def _redis_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(REDIS_SCHEMES):
        raise ValueError(f"must start with one of {', '.join(REDIS_SCHEMES)}")
    return value


def _database_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("must start with postgresql:// or postgres://")
    return value


RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]


class SharedSettings(BaseSettings):
    """One ConfigMap for all tiers. A field without a default must be set."""

    model_config = SettingsConfigDict(env_prefix="TICKETWIRE_", frozen=True, extra="ignore")

    redis_url: RedisUrl = Field(
        description="redis:// or rediss:// (TLS), unix://, redis+sentinel://host:26379,host2/service/0 or redis+cluster://host:6379"
    )
    database_url: DatabaseUrl = Field(description="postgresql://user:password@host:5432/name")
    partitions: int = Field(default=16, ge=1, le=4096, description="number of ingest streams; fixed at first start")
    durability: Literal["redis", "fsync", "replica"] = Field(
        default="redis", description="what a 200 of ingest waits for: Redis has it, its disk has it, a replica has it"
    )
    durability_timeout_ms: int = Field(default=2_000, ge=10, le=60_000, description="how long that wait may take")
    lease_ttl_ms: int = Field(
        default=5_000, ge=200, le=600_000, description="how long a silent worker keeps its partitions"
    )
    auth: Literal["off"] = Field(
        description="`off` is the only value yet and must be set on purpose: whoever reaches the ports may read and write"
    )
    policy: Path | None = Field(default=None, description="moderation policy file (YAML)")
    log_entries: int = Field(
        default=1_000, ge=1, le=10_000_000, description="newest entries a ticket's log keeps; older ones are in PostgreSQL"
    )
    log_days: int = Field(default=7, ge=1, le=3_650, description="days after its last message that a log is kept")
    redis_timeout_ms: int = Field(default=2_000, ge=50, le=60_000, description="longest wait for one Redis reply")
    drain_seconds: float = Field(default=20.0, ge=0.1, le=3_600, description="SIGTERM to exit, at the most")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="of the JSON log lines")
    allow_everything_feed: bool = Field(
        default=False, description="`ticketwire dev` only: a socket that names no ticket gets every ticket's messages"
    )


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], **given: Any) -> S:
    """Build *kind* from the environment and from *given*, which wins.

    Raises SettingsError with one line that names the variable, the value found and what is allowed.
    """
    _secrets_from_files(kind)
    try:
        return kind(**given)
    except ValidationError as exc:
        raise SettingsError("; ".join(_explain(kind, error) for error in exc.errors())) from exc


def _secrets_from_files(kind: type[BaseSettings]) -> None:
    """Honour `<VARIABLE>_FILE` for every variable of *kind* and of the settings nested in it."""
    for variable, _ in variables(kind):
        path = os.environ.get(f"{variable}_FILE")
        if path is None or variable in os.environ:
            continue
        try:
            os.environ[variable] = Path(path).read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise SettingsError(f"{variable}_FILE is {path!r}, which cannot be read: {exc.strerror}") from exc


def variables(kind: type[BaseSettings]) -> list[tuple[str, Any]]:
    """List every environment variable *kind* reads, with its field; nested settings come first."""
    own, nested = [], []
    for name, field in kind.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseSettings):
            nested += variables(annotation)
        else:
            own.append((f"{kind.model_config.get('env_prefix', '')}{name}".upper(), field))
    return nested + own


def _explain(kind: type[BaseSettings], error: Any) -> str:
    # Nested settings are built by their own default factory, so their errors carry a title of their own.
    title = error.get("ctx", {}).get("title")
    prefix = title or str(kind.model_config.get("env_prefix", ""))
    variable = f"{prefix}{'_'.join(str(part) for part in error['loc'])}".upper()
    if error["type"] == "missing":
        return f"{variable} is not set: {_meaning(kind, variable)}"
    found = error.get("input")
    shown = "(secret)" if _is_secret(kind, variable) else repr(found)
    return f"{variable} is {shown}: {error['msg'].removeprefix('Value error, ')}"


def _meaning(kind: type[BaseSettings], variable: str) -> str:
    return next((field.description or "" for name, field in variables(kind) if name == variable), "it has no default")


def _is_secret(kind: type[BaseSettings], variable: str) -> bool:
    return any(name == variable and "SecretStr" in str(field.annotation) for name, field in variables(kind))
