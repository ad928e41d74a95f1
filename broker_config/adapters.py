"""Readers and writers that the embedded broker hands to amqtt for each connection (needs amqtt)."""

from __future__ import annotations

import asyncio
from typing import Any

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
