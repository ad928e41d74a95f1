"""The embedded broker's own readers, writers and one correction of amqtt (needs amqtt)."""

from __future__ import annotations

import asyncio
from typing import Any

import amqtt.broker
from amqtt.adapters import ReaderAdapter, StreamReaderAdapter, StreamWriterAdapter, WebSocketsWriter

StreamWriter = StreamWriterAdapter
WebSocketWriter = WebSocketsWriter
# amqtt gives a read up after the client's keepalive time without data, and then reads again for ever.
_SILENT_PERIODS = 2


class Payload(bytes):
    """Bytes whose text is short: amqtt formats every message for its debug log, shown or not."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


class Broker(amqtt.broker.Broker):  # type: ignore[misc]
    """amqtt's broker, without what it sends to every client that connects.

    amqtt 0.12 gives a new connection the retained messages of all subscriptions of all clients, and the connection
    is lost when another client subscribes meanwhile. Here a connection gets what it has subscribed to.
    """

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Any
    ) -> None:
        subscribers = self._subscriptions.get(subscription[0], ())
        if any(one.client_id == session.client_id for one, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)


class StreamReader(StreamReaderAdapter):  # type: ignore[misc]
    """Reads a TCP connection, and ends it when the client has been silent for two keepalive times."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._silent = 0

    async def read(self, n: int = -1) -> bytes:
        """`n` bytes; none at the end of the connection or of amqtt's patience."""
        if self._silent >= _SILENT_PERIODS:
            return b""
        try:
            data = await super().read(n)
        except asyncio.CancelledError:
            self._silent += 1
            raise
        self._silent = 0
        return Payload(data) if n > 64 else data


class WebSocketReader(ReaderAdapter):  # type: ignore[misc]
    """Reads a WebSocket connection as a stream of bytes; the same silence ends it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._silent = 0

    async def read(self, n: int = -1) -> bytes:
        """`n` bytes; fewer at the end of the connection."""
        from websockets import ConnectionClosed

        if self._silent >= _SILENT_PERIODS:
            return b""
        try:
            while len(self._buffer) < n:
                message = await self._connection.recv()
                self._buffer += message.encode() if isinstance(message, str) else message
        except ConnectionClosed:
            self._buffer.clear()
            return b""
        except asyncio.CancelledError:
            self._silent += 1
            raise
        self._silent = 0
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return Payload(data) if n > 64 else data

    def feed_eof(self) -> None:
        """Nothing to do: the connection says itself when it ends."""
