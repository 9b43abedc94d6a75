"""Read what a request names: ticket, position, limit, origin. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from schemas.events import ID_PATTERN, ID_RULE
from schemas.message_id import MessageId
from ticketwire.errors import Rejected

_ID = re.compile(ID_PATTERN)
_MOST_SHOWN = 60  # characters of a wrong value that are repeated
_MOST_DIGITS = 10


def ticket_id(value: str) -> str:
    """Return *value* if it can name a ticket. Raises Rejected."""
    # `$` of the pattern would allow a newline at the end, which `fullmatch` does not.
    if _ID.fullmatch(value) is None:
        raise Rejected("invalid", f"ticket_id is {value[:_MOST_SHOWN]!r}, allowed: {ID_RULE}")
    return value


def position(name: str, value: str | None) -> MessageId | None:
    """Read a message id, such as `since`; None when it was not given. Raises Rejected."""
    if value is None:
        return None
    try:
        return MessageId.parse(value)
    except ValueError as exc:
        raise Rejected("invalid", f"{name}: {exc}") from exc


def limit(value: str | None, default: int, most: int) -> int:
    """Read a page's size. Raises Rejected."""
    return min(default, most) if value is None else _whole("limit", value, 1, most)


def seconds(name: str, value: str | None, most: int) -> int:
    """Read a time in whole seconds; 0 when it was not given. Raises Rejected."""
    return 0 if value is None else _whole(name, value, 0, most, " seconds")


def _whole(name: str, value: str, least: int, most: int, unit: str = "") -> int:
    # The length first: `int` takes quadratic time, and from 4,300 digits on it raises ValueError.
    if len(value) > _MOST_DIGITS or not (value.isascii() and value.isdecimal() and least <= int(value) <= most):
        raise Rejected("invalid", f"{name} is {value[:_MOST_SHOWN]!r}, allowed: {least} to {most}{unit}")
    return int(value)


def only_once(names: Sequence[str], given: Sequence[tuple[str, str]]) -> None:
    """Raise Rejected when a parameter stands twice: which of the two was meant nobody knows."""
    for name in names:
        count = sum(key == name for key, _ in given)
        if count > 1:
            raise Rejected("invalid", f"{name} is given {count} times, allowed: once")


def check_origin(headers: Mapping[str, str], allowed: Sequence[str]) -> None:
    """Let pages of this very host in, and those of *allowed*; who sends no Origin is no browser. Raises Rejected.

    Without this any page a user visits could open sockets with the user's network position or cookies.
    """
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return
    # The scheme is not compared: behind a proxy that ends TLS, ours is http while the page's is https.
    if origin != "null" and urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
        return
    raise Rejected(
        "forbidden", f"Origin is {origin[:_MOST_SHOWN]!r}, allowed: this host's own pages and DELIVERY_ORIGINS"
    )
