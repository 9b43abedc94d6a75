"""A TCP proxy whose far end can be changed and whose traffic can be delayed, cut, or swallowed one way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ticketwire.embedded.process import free_port


class Proxy:
    """Listens at `port`. The switches hold for all connections, open ones too."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)  # for new connections
        self.port = free_port()
        self.delay_s = 0.0  # of each chunk, both ways
        self._swallowing = False
        self.refuse = False  # new connections are closed at once
        self.swallowed_bytes = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._mute: set[asyncio.StreamWriter] = set()  # clients that missed a reply
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._accepted, "127.0.0.1", self.port)

    def cut(self) -> int:
        """Reset all connections; return how many there were."""
        victims = list(self._open)
        for writer in victims:
            writer.transport.abort()
        return len(victims) // 2

    def swallow_replies(self) -> None:
        """From now on requests arrive and replies do not."""
        self._swallowing = True

    def stop_swallowing(self) -> None:
        """Replies arrive again; connections that missed one are cut: no network delivers an end without its middle."""
        self._swallowing = False
        for writer in list(self._mute):
            writer.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self.refuse:
                await self._relay(reader, writer)
        except asyncio.CancelledError:
            pass  # `close`; asyncio's streams of 3.11 report a cancelled handler as a fault
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            return  # nobody there: our client sees its connection closed, as it would
        ends = {writer, far_writer}
        self._open |= ends
        # Whichever direction ends first, the other one has nothing to do any more.
        both = [
            asyncio.create_task(self._pump(reader, far_writer, replies=False)),
            asyncio.create_task(self._pump(far_reader, writer, replies=True)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            far_writer.transport.abort()
            self._open -= ends
            self._mute -= ends
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if replies and (self._swallowing or sink in self._mute):
                    self._mute.add(sink)
                    self.swallowed_bytes += len(data)
                    continue
                sink.write(data)
                await sink.drain()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def running_proxy(host: str, port: int) -> AsyncIterator[Proxy]:
    """A proxy in front of a server, for as long as the block."""
    proxy = Proxy(host, port)
    server = await proxy.serve()
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
