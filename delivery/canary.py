"""This node's message to itself through Redis: proof that what is published reaches it."""

from __future__ import annotations

import asyncio
import secrets
import time

from delivery import metrics
from delivery.settings import DeliverySettings
from schemas.keys import Keys
from ticketwire.bus.bus import Bus
from ticketwire.bus.subscriber import Subscriber
from ticketwire.errors import Unavailable
from ticketwire.telemetry.health import Health


class Canary:
    """Sent every second or so; readiness depends on its return, and a silent subscription is made anew."""

    def __init__(self, bus: Bus, subscriber: Subscriber, settings: DeliverySettings, node: str, health: Health) -> None:
        self._bus = bus
        self._subscriber = subscriber
        self._settings = settings
        self._health = health
        self._channel = Keys.canary(node)
        self._secret = secrets.token_hex(8)  # so that nobody else's message is taken for ours
        self._back_at = time.monotonic()
        self._dropped_at = 0.0
        self._refusal = ""

    def on_message(self, payload: str) -> None:
        if payload == self._secret:
            self._back_at = time.monotonic()
            self._health.set("redis", True)

    def on_missed(self) -> None:
        """The next canary will tell."""

    async def run(self) -> None:
        """Send and watch until cancelled."""
        lost_after = self._settings.canary_lost_seconds
        await self._subscriber.subscribe(self._channel, self, sharded=False)
        while True:
            try:
                await self._bus.command(self._channel, "PUBLISH", self._channel, self._secret)
                self._refusal = ""
            except Unavailable as exc:
                self._refusal = exc.detail
            await asyncio.sleep(self._settings.canary_seconds)
            self._subscriber.ping(lost_after)
            now = time.monotonic()
            age = now - self._back_at
            metrics.CANARY_AGE.set(age)
            if age <= lost_after:
                continue
            self._health.set("redis", False, self._refusal or f"no own message came back for {age:.1f} s")
            if not self._refusal and now - self._dropped_at > lost_after:
                self._dropped_at = now
                self._subscriber.reconnect(self._channel, "canary lost")
