"""Settings on which all tiers must agree (`TICKETWIRE_*`), and how a tier's settings are read.

Only the `__main__` modules and the command line build settings from the environment; everything else is given them.
A secret may also come from a file: `TICKETWIRE_REDIS_URL_FILE=/run/secrets/redis-url`.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as ForeignSettingsError

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


def _words(value: object) -> object:
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else tuple(value.replace(",", " ").split())


# A list as people write one, `a, b`, or as JSON.
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
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
        description="`off`, the only value yet, must be set on purpose: whoever reaches the ports may read and write"
    )
    policy: Path | None = Field(default=None, description="moderation policy file (YAML)")
    log_entries: int = Field(
        default=1_000,
        ge=1,
        le=10_000_000,
        description="newest entries a ticket's log keeps; older ones are in PostgreSQL",
    )
    log_days: int = Field(default=7, ge=1, le=3_650, description="days after its last message that a log is kept")
    redis_timeout_ms: int = Field(default=2_000, ge=50, le=60_000, description="longest wait for one Redis reply")
    drain_seconds: float = Field(default=20.0, ge=0.1, le=3_600, description="SIGTERM to exit, at the most")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="of the JSON log lines")
    allow_everything_feed: bool = Field(
        default=False, description="`ticketwire dev` only: a socket that names no ticket gets every ticket's messages"
    )


S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable that a class of settings reads."""

    name: str  # "TICKETWIRE_REDIS_URL"
    field: str  # "redis_url"
    info: FieldInfo

    @property
    def secret(self) -> bool:
        return "SecretStr" in str(self.info.annotation)

    @property
    def meaning(self) -> str:
        return self.info.description or ""

    @property
    def default(self) -> str:
        """As one would write it in the environment."""
        if self.info.is_required():
            return "(must be set)"
        value = self.info.get_default(call_default_factory=True, validated_data={})
        if value is None or value in ("", ()):
            return "(empty)"
        if isinstance(value, bool):
            return str(value).lower()
        return "(secret)" if self.secret else str(value)

    @property
    def allowed(self) -> str:
        """The values it takes, in words."""
        kind = self.info.annotation
        if get_origin(kind) is Literal:
            return ", ".join(str(value) for value in get_args(kind))
        if kind is bool:
            return "true, false"
        if get_origin(kind) is tuple:
            return "words: a, b"
        low = next((f"from {_bound(m)}" for m in self.info.metadata if isinstance(m, Ge | Gt)), "")
        high = next((f"to {_bound(m)}" for m in self.info.metadata if isinstance(m, Le | Lt)), "")
        if low or high:
            return " ".join(part for part in (low, high) if part)
        text = getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
        words = {"SecretStr": "text (secret)", "str": "text", "int": "a number", "float": "a number", "Path": "a path"}
        text = text.replace("pathlib.", "").replace("pydantic.types.", "").removesuffix(" | None")
        return words.get(text, text)


def _bound(limit: Ge | Gt | Le | Lt) -> str:
    value = next(getattr(limit, name) for name in ("ge", "gt", "le", "lt") if hasattr(limit, name))
    inside = isinstance(limit, Ge | Le)
    return f"{value}" if inside else f"{value} (excluded)"


def load(kind: type[S], **given: Any) -> S:
    """Build *kind* from the environment and from *given*, which wins. An empty variable counts as not set.

    Raises SettingsError with one line that names the variable, the value found and what is allowed.
    """
    faults = []
    for name, nested in _nested(kind):
        if name not in given:
            try:
                given[name] = load(nested)
            except SettingsError as exc:
                faults.append(exc.detail)
                given[name] = nested.model_construct()  # never returned: lets the fields beside it be checked too
    for variable in _own_variables(kind):
        text = _from_file(variable)
        if text is not None:
            given.setdefault(variable.field, text)
    try:
        settings = kind(_env_ignore_empty=True, **given)
    except ValidationError as exc:
        faults += [_explain(kind, error) for error in exc.errors()]
        raise SettingsError("; ".join(faults)) from exc
    except ForeignSettingsError as exc:  # a list or table that is not JSON
        faults.append(_explain_json(kind, exc))
        raise SettingsError("; ".join(faults)) from exc
    if faults:
        raise SettingsError("; ".join(faults))
    return settings


def variables(kind: type[BaseSettings]) -> list[Variable]:
    """List every environment variable *kind* reads; those of nested settings come first."""
    nested = [variable for _, inner in _nested(kind) for variable in variables(inner)]
    return nested + list(_own_variables(kind))


def misspelt(kind: type[BaseSettings]) -> list[str]:
    """Return one sentence for each variable of the environment that looks like one of *kind*'s and is none.

    A variable with a prefix of ours that resembles nothing is left alone: Kubernetes makes names such as
    `INGEST_SERVICE_HOST` for every Service called `ingest`.
    """
    known = {variable.name for variable in variables(kind)}
    known |= {f"{name}_FILE" for name in known}
    prefixes = tuple({name.partition("_")[0] + "_" for name in known})
    return [
        f"{name} is set but not known: did you mean {near[0]}?"
        for name in sorted(os.environ)
        if name.upper() not in known and name.upper().startswith(prefixes)
        if (near := difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8))
    ]


def _nested(kind: type[BaseSettings]) -> Iterator[tuple[str, type[BaseSettings]]]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings):
            yield name, field.annotation


def _own_variables(kind: type[BaseSettings]) -> Iterator[Variable]:
    prefix, nested = str(kind.model_config.get("env_prefix", "")), dict(_nested(kind))
    for name, field in kind.model_fields.items():
        if name not in nested:
            yield Variable(f"{prefix}{name}".upper(), name, field)


def _from_file(variable: Variable) -> str | None:
    """Honour `<VARIABLE>_FILE`; the variable itself wins."""
    path = os.environ.get(f"{variable.name}_FILE")
    if not path or os.environ.get(variable.name):
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"{variable.name}_FILE is {path!r}, which cannot be read: {reason}") from exc


def _explain(kind: type[BaseSettings], error: Any) -> str:
    """Say in one sentence which variable is wrong, what it holds and what it may hold."""
    allowed = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    variable = next((v for v in _own_variables(kind) if error["loc"][:1] == (v.field,)), None)
    if variable is None:  # a rule about several fields together
        return f"{kind.model_config.get('env_prefix', '')}*: {allowed}"
    if error["type"] == "missing":
        return f"{variable.name} is not set ({variable.allowed}): {variable.meaning}"
    shown = "(secret)" if variable.secret else repr(error.get("input"))
    where = "".join(f"[{part}]" for part in error["loc"][1:])
    return f"{variable.name}{where} is {shown}: {allowed}"


def _explain_json(kind: type[BaseSettings], error: ForeignSettingsError) -> str:
    for variable in _own_variables(kind):
        if f'field "{variable.field}"' in str(error):
            shown = "(secret)" if variable.secret else repr(os.environ.get(variable.name))
            return f'{variable.name} is {shown}: must be JSON, such as ["a", "b"] for a list'
    return str(error)
