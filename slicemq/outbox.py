"""What goes out on a connection of our own: whole packets, in order, from any thread.

A packet is written at once on the thread that sends it, by one gather write. What the socket does not take is
copied once, and the network thread writes it as the socket drains; later packets queue up behind.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from slicemq.buffers import BufferPool
from slicemq.endpoint import error_words
from slicemq.mqtt_packets import SMALL
from slicemq.streams import Stream

# Packets that may wait, however small they are: frames, and all with the answers that a broker asks for.
_MAX_PACKETS = 10_000
_MAX_ANSWERS = 2 * _MAX_PACKETS
# Packets that one write gathers.
_GATHER = 64


class Outbox:
    """The way out to one stream. `wake` makes the network thread look at `unsent` and `error` again."""

    def __init__(self, stream: Stream, pool: BufferPool, wake: Callable[[], None]) -> None:
        self.error: str | None = None
        self.last_write = time.monotonic()
        self._stream = stream
        self._pool = pool
        self._wake = wake
        # Held for one call of the system that does not wait, or one copy.
        self._room = threading.Condition(threading.Lock())
        self._queue: deque[bytes | memoryview] = deque()
        self._pending = 0

    @property
    def pending(self) -> int:
        """Bytes that wait for the socket."""
        return self._pending

    @property
    def unsent(self) -> bool:
        """Whether something waits for the socket."""
        return bool(self._queue)

    def send(self, buffers: Sequence[bytes | memoryview], *, limit: int | None, timeout: float) -> bool:
        """Send one packet; False when it was not, or not all of it on a connection that has broken.

        `buffers` hold plain bytes and may be used again after this. Waits at most `timeout` seconds while more than
        `limit` bytes would wait for the socket (a packet above the limit may go alone). Without a limit it never
        waits: a broker that takes so little that those packets pile up ends the connection.
        """
        total = sum(map(len, buffers))
        with self._room:
            if limit is not None and self._full(total, limit) and not self._wait_for_room(total, limit, timeout):
                return False
            if self.error is not None:
                return False
            sent = 0
            if limit is None and len(self._queue) >= _MAX_ANSWERS:
                self.error = "the broker asks, and does not take the answers"
                return False
            if not self._queue:
                sent = self._write(buffers)
                if sent == total:
                    return self.error is None
            try:
                rest = self._copied(buffers, sent, total - sent)
            except MemoryError as error:
                # Half of the packet may be out: nothing else can follow it.
                self.error = str(error)
            else:
                self._queue.append(rest)
                self._pending += len(rest)
            wake = len(self._queue) == 1 or self.error is not None
        if wake:
            self._wake()
        return self.error is None

    def _full(self, nbytes: int, limit: int) -> bool:
        pending = self._pending
        return pending > 0 and (pending + nbytes > limit or len(self._queue) >= _MAX_PACKETS)

    def _wait_for_room(self, nbytes: int, limit: int, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self.error is None and self._full(nbytes, limit):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._room.wait(left)
        return True

    def _write(self, buffers: Sequence[bytes | memoryview]) -> int:
        try:
            sent = self._stream.write(buffers)
        except OSError as error:
            self.error = error_words(error)
            return 0
        if sent:
            self.last_write = time.monotonic()
        return sent

    def _copied(self, buffers: Sequence[bytes | memoryview], start: int, nbytes: int) -> bytes | memoryview:
        """The last `nbytes` bytes of `buffers`, from `start` on."""
        left: list[bytes | memoryview] = []
        for buffer in buffers:
            if start < len(buffer):
                left.append(memoryview(buffer)[start:] if start else buffer)
            start = max(0, start - len(buffer))
        if nbytes <= SMALL:
            return b"".join(left)
        copy = self._pool.take(nbytes)
        place = 0
        for buffer in left:
            copy[place : place + len(buffer)] = buffer
            place += len(buffer)
        return copy

    def flush(self) -> None:
        """Write what the socket takes; on the network thread."""
        with self._room:
            while self._queue and self.error is None:
                batch = [self._queue[place] for place in range(min(_GATHER, len(self._queue)))]
                sent = self._write(batch)
                self._pending -= sent
                short = sent < sum(map(len, batch))
                while self._queue and sent >= len(self._queue[0]):
                    sent -= len(self._queue.popleft())
                if sent:
                    self._queue[0] = memoryview(self._queue[0])[sent:]
                if short:
                    break
            self._room.notify_all()

    def close(self, reason: str) -> None:
        """Nothing is sent any more; what waits is dropped, and so are those who wait."""
        with self._room:
            self.error = self.error or reason
            self._queue.clear()
            self._pending = 0
            self._room.notify_all()
            self._stream.close()
