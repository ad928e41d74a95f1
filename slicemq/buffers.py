"""Memory for large payloads, used again and again: taken from the system once and never filled with zeros by us.

A buffer is lent as a memoryview and comes back by itself when the last view of it is dropped (memoryview, numpy
array over it, slice of either): each loan is an object of its own over the buffer, all views keep it alive, and a
weak reference to it tells the pool of its end. Who keeps a view for ever costs memory, nothing else.
"""

from __future__ import annotations

import mmap
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

# What is kept for later: at most this many buffers and bytes, for so many seconds since each was last used.
KEEP_BUFFERS = 64
KEEP_BYTES = 64 << 20
KEEP_SECONDS = 5.0
_PAGE = mmap.PAGESIZE


class _Buffer:
    """Anonymous memory, aligned to a page; the system gives its pages at the first touch."""

    __slots__ = ("back", "loan", "map", "size", "type")

    def __init__(self, size: int) -> None:
        # Here, since a process that sees small payloads only does without its half a megabyte.
        import ctypes

        self.size = size
        # Private: pages that could be shared cost more at their first touch.
        self.map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.back = 0.0
        self.type = ctypes.c_char * size
        self.loan: weakref.ref[ctypes.Array[ctypes.c_char]] | None = None


class BufferPool:
    """Lends buffers; may be used from any thread. Free buffers are bounded, loans are not (their users are)."""

    def __init__(self, keep_buffers: int = KEEP_BUFFERS, keep_bytes: int = KEEP_BYTES) -> None:
        self._keep_buffers = keep_buffers
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()
        self._free: list[_Buffer] = []
        # A loan's weak reference must live as long as the loan.
        self._lent: dict[int, _Buffer] = {}
        # Filled by weak references' callbacks, which may run at any point of any thread, so without a lock.
        self._back: deque[_Buffer] = deque()

    @property
    def free(self) -> tuple[int, int]:
        """Buffers that wait to be used again, and their bytes."""
        with self._lock:
            self._sort_in()
            return len(self._free), sum(one.size for one in self._free)

    def take(self, nbytes: int) -> memoryview:
        """A writable view of `nbytes` bytes (at least 1) with any content, at a multiple of the system's page.

        Raises MemoryError when the system has no more.
        """
        with self._lock:
            self._sort_in()
            # Not one of more than twice the size: a small payload that is kept must not hold a large buffer.
            # Of those of one size the last used: it is in the processor's cache, and the others may grow old.
            fitting = [one for one in reversed(self._free) if nbytes <= one.size <= 2 * nbytes + _PAGE]
            buffer = min(fitting, key=lambda one: one.size, default=None)
            if buffer is not None:
                self._free.remove(buffer)
        if buffer is None:
            try:
                buffer = _Buffer(_rounded(nbytes))
            except OSError as error:
                raise MemoryError(f"no memory for {nbytes} bytes: {error}") from None
        loan = buffer.type.from_buffer(buffer.map)
        self._lent[id(buffer)] = buffer
        buffer.loan = weakref.ref(loan, lambda _, buffer=buffer: self._give_back(buffer))  # type: ignore[misc]
        return memoryview(loan).cast("B")[:nbytes]

    def trim(self) -> None:
        """Give memory back to the system that nobody has used for some seconds."""
        oldest = time.monotonic() - KEEP_SECONDS
        with self._lock:
            self._sort_in()
            self._free = [one for one in self._free if one.back > oldest]

    def _give_back(self, buffer: _Buffer) -> None:
        buffer.back = time.monotonic()
        # First, since another thread may lend it again as soon as it is back.
        del self._lent[id(buffer)]
        self._back.append(buffer)
        # Whoever holds the lock, maybe this very thread, sorts it in later.
        if self._lock.acquire(blocking=False):
            try:
                self._sort_in()
            finally:
                self._lock.release()

    def _sort_in(self) -> None:
        while self._back:
            self._free.append(self._back.popleft())
        # The longest unused go first.
        while len(self._free) > self._keep_buffers or (
            len(self._free) > 1 and sum(one.size for one in self._free) > self._keep_bytes
        ):
            del self._free[0]


def _rounded(nbytes: int) -> int:
    """At least a page, and at most a quarter more than asked: frames of nearly one size share buffers."""
    step = max(_PAGE, 1 << max(0, nbytes.bit_length() - 3))
    return -(-nbytes // step) * step
