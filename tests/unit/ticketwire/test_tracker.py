"""The client's side of the protocol, by the conversations that web/session.js has to follow too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ticketwire.client.tracker import Tracker

VECTORS = Path(__file__).parents[2] / "vectors" / "conversations.json"
CONVERSATIONS = json.loads(VECTORS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda one: str(one["name"]))
def test_a_client_follows_the_conversation(conversation: dict[str, Any]) -> None:
    """What it sends, what it passes on, when it acknowledges."""
    tracker = Tracker()
    for number, step in enumerate(conversation["steps"]):
        where = f"step {number}: {step}"
        if "receive" in step:
            outcome = tracker.receive(step["receive"], step.get("size", 50))
            assert outcome.deliver == step["deliver"], where
            assert outcome.send == step["send"], where
            assert outcome.reconnect_within_ms == step.get("reconnect"), where
        elif step["do"] == "connect":
            assert [tracker.connect(**step["identity"])] == step["send"], where
        elif step["do"] == "subscribe":
            sent = tracker.subscribe(step["ticket"], step.get("since"), step.get("history", 0))
            assert sent == step["send"], where
        elif step["do"] == "unsubscribe":
            assert tracker.unsubscribe(step["ticket"]) == step["send"], where
        elif step["do"] == "handled":
            tracker.handled(step["ticket"], step["position"], step["now"])
        elif step["do"] == "due":
            assert tracker.ack_due_ms() == step["due"], where
        else:
            assert tracker.acks(step["now"]) == step["send"], where
