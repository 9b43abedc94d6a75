"""YAML to plain values, remembering the line and column of each. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

MAX_DEPTH = 20

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both from 1."""

    line: int
    column: int


class YamlError(ValueError):
    """Text that is no YAML, or YAML that is not accepted here."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(reason)
        self.place = place
        self.reason = reason


def read_yaml(content: str) -> tuple[Any, dict[Path, Place]]:
    """Return the value of *content*, and where each of its parts stands (a key, for the value of a mapping).

    Aliases are refused, since a few lines of them can stand for gigabytes; so are keys that come twice.
    """
    try:
        for event in yaml.parse(content, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise YamlError(_place(event.start_mark), f"found the alias *{event.anchor}, aliases are not allowed")
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        raise YamlError(
            _place(exc.problem_mark or exc.context_mark), f"is no YAML: {exc.problem or exc.context}"
        ) from exc
    except yaml.YAMLError as exc:  # a character that YAML does not allow
        raise YamlError(_reader_place(content, exc), f"is no YAML: {getattr(exc, 'reason', exc)}") from exc
    except RecursionError as exc:
        raise YamlError(Place(1, 1), f"is nested deeper than {MAX_DEPTH} levels") from exc
    places: dict[Path, Place] = {(): Place(1, 1)}
    return (None if node is None else _value(node, (), places)), places


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)


def _reader_place(content: str, exc: Exception) -> Place:
    at = getattr(exc, "position", 0)
    return Place(content.count("\n", 0, at) + 1, at - (content.rfind("\n", 0, at) + 1) + 1)


def _value(node: yaml.Node, path: Path, places: dict[Path, Place]) -> Any:
    if len(path) > MAX_DEPTH:
        raise YamlError(_place(node.start_mark), f"is nested deeper than {MAX_DEPTH} levels")
    places.setdefault(path, _place(node.start_mark))
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), places) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, places)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as exc:
        raise YamlError(_place(node.start_mark), f"found a value that is not accepted: {node.value[:40]!r}") from exc
    finally:
        loader.dispose()


def _mapping(node: yaml.MappingNode, path: Path, places: dict[Path, Place]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError(_place(key_node.start_mark), "found a key that is no text")
        key = str(key_node.value)
        if key in values:
            raise YamlError(_place(key_node.start_mark), f"found the key {key!r} twice")
        places[*path, key] = _place(key_node.start_mark)
        values[key] = _value(value_node, (*path, key), places)
    return values
