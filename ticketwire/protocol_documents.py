"""docs/protocol/*.json, made from `schemas.frames`: JSON Schema of all frames, and AsyncAPI 3 of the socket.

`python -m ticketwire.protocol_documents docs/protocol` (= `make docs`) writes them; a test holds them current.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from schemas import frames
from schemas.problems import PROBLEMS
from ticketwire import __name__ as product

VERSION = "1"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """All frames by type, under `client` and `server`, with shared definitions."""
    inputs: list[tuple[tuple[str, str], Literal["validation"], TypeAdapter[Any]]] = [
        *((("client", name), "validation", TypeAdapter(kind)) for name, kind in frames.CLIENT_FRAMES.items()),
        *((("server", name), "validation", TypeAdapter(kind)) for name, kind in frames.SERVER_FRAMES.items()),
    ]
    found, shared = TypeAdapter.json_schemas(inputs, ref_template="#/$defs/{model}")
    sides: dict[str, dict[str, Any]] = {"client": {}, "server": {}}
    for (key, _), schema in found.items():
        side, name = key
        sides[side][name] = schema
    return {
        "$schema": _DIALECT,
        "title": f"Frames of {frames.SUBPROTOCOL}",
        "description": "One JSON object in each text frame of the WebSocket, told apart by `type`.",
        "anyOf": [{"$ref": f"#/{side}/{name}"} for side, named in sides.items() for name in named],
        **sides,
        "$defs": shared["$defs"],
    }


def asyncapi() -> dict[str, Any]:
    """The socket as AsyncAPI 3: what the application receives from clients and sends to them."""
    schema = json_schema()
    messages: dict[str, Any] = {}
    names: dict[str, list[str]] = {"client": [], "server": []}
    for side in names:
        for name, frame in schema[side].items():
            key = f"{side}_{name}"
            names[side].append(key)
            target = schema["$defs"][frame["$ref"].rpartition("/")[2]] if "$ref" in frame else frame
            messages[key] = {
                "name": name,
                "summary": str(target.get("description", "")).partition("\n")[0],
                "payload": {"$ref": f"#/components/schemas/{key}"},
            }
    schemas = {f"{side}_{name}": schema[side][name] for side in names for name in schema[side]}
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"{product.capitalize()} delivery",
            "version": VERSION,
            "description": "Read docs/protocol.md first: it says what order frames come in and what a client must do.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"delivery": {"host": "localhost:8080", "protocol": "ws"}},
        "channels": {
            "socket": {
                "address": "/",
                "description": f"WebSocket with the subprotocol {frames.SUBPROTOCOL}",
                "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in messages},
            }
        },
        "operations": {
            "receive": _operation("receive", names["client"]),
            "send": _operation("send", names["server"]),
        },
        "components": {"messages": messages, "schemas": schemas | schema["$defs"]},
        "x-close-codes": {
            str(close): {
                "reconnect": close < 4500,
                "codes": {p.code: p.meaning for p in PROBLEMS.values() if p.close == close},
            }
            for close in sorted({p.close for p in PROBLEMS.values() if p.close is not None and p.close >= 4000})
        },
    }
    text = json.dumps(document).replace("#/$defs/", "#/components/schemas/")
    return json.loads(text)  # type: ignore[no-any-return]


def _operation(action: str, messages: list[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/socket"},
        "messages": [{"$ref": f"#/channels/socket/messages/{key}"} for key in messages],
    }


def documents() -> dict[str, str]:
    """Return the files' texts by name."""
    made = {"frames.schema.json": json_schema(), "asyncapi.json": asyncapi()}
    return {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in made.items()}


def main() -> int:
    """Write the files into the folder given as the only argument."""
    if len(sys.argv) != 2:
        print("usage: python -m ticketwire.protocol_documents FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
