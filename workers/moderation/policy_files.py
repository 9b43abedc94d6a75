"""Read a policy file and its lists, and notice when they change. The edge: the only module here with files."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from workers.moderation.policy import LinksRule, Policy, PolicyDocument, PolicyError, Rule, TermsRule
from workers.moderation.rules import RuleSet
from workers.moderation.wordlist import Term, TermError, parse_terms
from workers.moderation.yaml_places import Path as YamlPath
from workers.moderation.yaml_places import Place, YamlError, read_yaml

log = logging.getLogger(__name__)

MAX_POLICY_BYTES = 1 << 20
MAX_LIST_BYTES = 32 << 20
BUILTIN = "builtin:"
_DOMAIN = re.compile(r"[a-z0-9\u0080-\U0010ffff](?:[a-z0-9.\-\u0080-\U0010ffff]*)\.[a-z0-9\-\u0080-\U0010ffff]{2,}")


def default_policy_path() -> Path:
    """Return where the policy lies that is shipped."""
    return Path(str(resources.files("workers.moderation") / "default_policy.yaml"))


def load_policy(path: Path | str) -> Policy:
    """Read the policy at *path* with its lists. Raises `PolicyError`, and nothing else, if it cannot be used."""
    return _Loader(Path(path)).load()


class _Loader:
    """One reading of one policy file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.identities: dict[Path, object] = {}  # of all files read, from before they were read
        self._places: dict[YamlPath, Place] = {}
        self._hash = hashlib.sha256()

    def load(self) -> Policy:
        content = self._read(self._path, MAX_POLICY_BYTES, Place(1, 1))
        try:
            value, self._places = read_yaml(content)
        except YamlError as exc:
            raise self._error(exc.place, exc.reason) from exc
        if not isinstance(value, dict):
            raise self._error(Place(1, 1), "found no mapping, a policy is a mapping with the key rules")
        try:
            document = PolicyDocument.model_validate(value)
        except ValidationError as exc:
            raise self._from_validation(exc) from exc
        lists: dict[str, tuple[Term, ...]] = {}
        domains: dict[str, frozenset[str]] = {}
        for index, rule in enumerate(document.rules):
            if isinstance(rule, TermsRule):
                self._check_inline(index, rule)
                for key, at, name in _named(rule, "lists", "allow_lists"):
                    lists[name] = tuple(self._terms(name, ("rules", index, key, at)))
            elif isinstance(rule, LinksRule):
                for key, at, name in _named(rule, "deny_lists"):
                    domains[name] = frozenset(self._domains(name, ("rules", index, key, at)))
        return Policy(document, lists, domains, self._hash.hexdigest())

    def _error(self, place: Place, reason: str, file: Path | None = None) -> PolicyError:
        return PolicyError(str(file or self._path), place.line, place.column, reason)

    def _read(self, path: Path, limit: int, named_at: Place) -> str:
        """Return the text of *path*; when it cannot be read, the place that names it is at fault."""
        self.identities[path] = _identity(path)
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except OSError as exc:
            raise self._error(named_at, f"cannot read {path}: {exc.strerror or type(exc).__name__}") from exc
        if len(content) > limit:
            raise self._error(named_at, f"{path} has more than {limit} bytes, {limit} allowed")
        self._hash.update(len(content).to_bytes(8, "big") + content)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            line = content.count(b"\n", 0, exc.start) + 1
            raise self._error(Place(line, 1), "is not UTF-8, only that is allowed", path) from exc

    def _list_path(self, name: str, place: Place) -> Path:
        if not name.startswith(BUILTIN):
            return self._path.parent / name
        short = name.removeprefix(BUILTIN)
        folder = Path(str(resources.files("workers.moderation") / "lists"))
        known = sorted(file.name for file in folder.glob("*.txt"))
        if short not in known:
            raise self._error(place, f"found the shipped list {short!r}, allowed are {', '.join(known)}")
        return folder / short

    def _list(self, name: str, where: YamlPath) -> tuple[Path, str]:
        place = self._places.get(where, Place(1, 1))
        path = self._list_path(name, place)
        return path, self._read(path, MAX_LIST_BYTES, place)

    def _terms(self, name: str, where: YamlPath) -> list[Term]:
        path, content = self._list(name, where)
        try:
            return parse_terms(content)
        except TermError as exc:
            raise self._error(Place(exc.line, 1), exc.reason, path) from exc

    def _domains(self, name: str, where: YamlPath) -> Iterator[str]:
        path, content = self._list(name, where)
        for number, line in enumerate(content.splitlines(), 1):
            domain = line.split("#", 1)[0].strip().lower()
            if domain and not _DOMAIN.fullmatch(domain):
                raise self._error(
                    Place(number, 1), f"found {domain[:60]!r}, a domain such as example.com is allowed", path
                )
            if domain:
                yield domain

    def _check_inline(self, index: int, rule: TermsRule) -> None:
        for key, entries in (("terms", rule.terms), ("allow", rule.allow)):
            for at, entry in enumerate(entries):
                try:
                    parse_terms(entry)
                except TermError as exc:
                    place = self._places.get(("rules", index, key, at), Place(1, 1))
                    raise self._error(place, exc.reason) from exc

    def _from_validation(self, exc: ValidationError) -> PolicyError:
        errors = exc.errors(include_url=False)
        first = errors[0]
        path, names = _yaml_path(first["loc"]), _field_names(first["loc"])
        if first["type"] == "union_tag_invalid":
            path = (*path, "kind")
        place = Place(1, 1)
        for size in range(len(path), -1, -1):
            if path[:size] in self._places:
                place = self._places[path[:size]]
                break
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return self._error(place, _sentence(first, names) + more)


def _named(rule: Rule, *keys: str) -> Iterator[tuple[str, int, str]]:
    for key in keys:
        for at, name in enumerate(getattr(rule, key)):
            yield key, at, name


def _yaml_path(location: tuple[int | str, ...]) -> YamlPath:
    """Return the path in the file: pydantic puts the kind of a rule behind its number."""
    if len(location) > 2 and location[0] == "rules":
        return location[:2] + location[3:]
    return location


_KINDS = {get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(Rule)[0])}


def _field_names(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed where the last part of *location* stands."""
    model: type[BaseModel] = PolicyDocument
    if len(location) > 2 and location[0] == "rules":
        model = _KINDS.get(str(location[2]), PolicyDocument)
        for part in location[3:-1]:
            inner = model.model_fields[part].annotation if part in model.model_fields else None
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
    return sorted(model.model_fields)


def _sentence(error: Any, names: list[str]) -> str:
    key = error["loc"][-1] if error["loc"] else "policy"
    kind, found = error["type"], repr(error.get("input"))[:80]
    if kind == "extra_forbidden":
        return f"unknown key {key!r}, allowed are {', '.join(names)}"
    if kind == "missing":
        return f"the key {key!r} is missing"
    if kind == "union_tag_invalid":
        return f"unknown kind {error['ctx']['tag']!r}, allowed are {', '.join(sorted(_KINDS))}"
    if kind == "union_tag_not_found":
        return f"the key 'kind' is missing, allowed are {', '.join(sorted(_KINDS))}"
    if kind == "value_error":
        return f"{key}: {error['ctx']['error']}"
    if kind in ("enum", "literal_error"):
        return f"{key}: found {found}, allowed is {error['ctx']['expected']}"
    return f"{key}: found {found}: {error['msg'][:1].lower()}{error['msg'][1:]}"


@dataclass
class PolicyFile:
    """The policy of a process, read anew when its file or a list of it changes.

    A bad file never replaces a good one: `rules` stays as it was, `failures` counts, `error` says why,
    and a line is logged once for each error. Loading happens in the caller's thread (`reload` may be
    called in another one); `rules` is replaced in one step, so that a batch is judged by one policy.
    """

    path: Path
    on_change: Callable[[PolicyFile], None] = lambda _file: None  # after every attempt, good or bad
    rules: RuleSet = field(init=False)
    reloads: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    error: PolicyError | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Load the policy. Raises `PolicyError`: a process does not start without one."""
        self._lock = threading.Lock()
        self._seen: dict[Path, object] = {}
        self.rules = self._load()

    def _load(self) -> RuleSet:
        loader = _Loader(self.path)
        try:
            return RuleSet(loader.load())
        finally:
            self._seen = loader.identities

    def poll(self) -> bool:
        """Load the policy if a file of it changed since it was last read; say whether it was tried."""
        if all(_identity(path) == before for path, before in self._seen.items()):
            return False
        self.reload()
        return True

    def reload(self) -> bool:
        """Load the policy now; say whether it is in force. Never raises for a bad file."""
        with self._lock:
            try:
                rules = self._load()
            except PolicyError as exc:
                self.failures += 1
                if str(exc) != str(self.error):
                    log.error(
                        "policy refused",
                        extra={"file": exc.file, "line": exc.line, "column": exc.column, "reason": exc.reason},
                    )
                self.error = exc
                self.on_change(self)
                return False
            changed = rules.digest != self.rules.digest
            self.rules, self.error = rules, None
            self.reloads += 1
            log.info("policy loaded", extra={"file": str(self.path), "digest": rules.digest, "changed": changed})
            self.on_change(self)
            return True


def _identity(path: Path) -> object:
    """Return what changes when a file is written or replaced; a ConfigMap's file is a symbolic link."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
