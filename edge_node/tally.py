"""What a slice counts and times for its heartbeats, and its warnings, few enough for a log."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque

logger = logging.getLogger("slicemq.node.slice")

_MEAN_OF = 32
_LOG_EVERY = 10.0
_RUN = ("decode", "invoke", "invoke_cpu", "encode")


class Tally:
    """Counters, times and warnings of one slice. Each time is noted by one thread only; counters by any.

    `frames`: done; `errors`: ended with an error for their client; `refused`: bad ones; `unsent`: messages that
    did not leave.
    """

    def __init__(self) -> None:
        self.frames = self.errors = self.refused = self.unsent = 0
        self._lock = threading.Lock()
        self._receive: deque[float] = deque(maxlen=_MEAN_OF)
        self._runs: deque[tuple[float, float, float, float]] = deque(maxlen=_MEAN_OF)
        self._send: deque[float] = deque(maxlen=_MEAN_OF)
        self._warned: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def count(self, *, frames: int = 0, errors: int = 0, refused: int = 0, unsent: int = 0) -> None:
        """Add to the counters."""
        with self._lock:
            self.frames += frames
            self.errors += errors
            self.refused += refused
            self.unsent += unsent

    def received(self, seconds: float) -> None:
        """Processor time of the link's thread for a message."""
        self._receive.append(seconds)

    def ran(self, decode: float, invoke: float, invoke_cpu: float, encode: float) -> None:
        """What a frame took until it was ready to be sent, in seconds."""
        self._runs.append((decode, invoke, invoke_cpu, encode))

    def left(self, send: float, *, failed: bool) -> None:
        """A frame is done, `failed` or not, and sending took so many seconds."""
        self._send.append(send)
        if not failed:
            self.count(frames=1)

    @property
    def runs(self) -> int:
        """How many of the last frames have been run."""
        return len(self._runs)

    def means(self) -> dict[str, float]:
        """`<name>_ms` of the last frames: their mean in milliseconds, 0 before the first."""
        runs = tuple(self._runs)
        times = dict(zip(_RUN, zip(*runs, strict=True), strict=True)) if runs else dict.fromkeys(_RUN, ())
        times |= {"receive": tuple(self._receive), "send": tuple(self._send)}
        return {
            f"{name}_ms": round(1000 * sum(values) / len(values), 4) if values else 0.0
            for name, values in times.items()
        }

    def warn(self, kind: str, text: str, *values: object) -> None:
        """Log the first message of a kind at once, then at most one in `_LOG_EVERY` seconds, with a count."""
        now = time.monotonic()
        with self._lock:
            if now - self._warned.get(kind, -math.inf) < _LOG_EVERY:
                self._held[kind] = self._held.get(kind, 0) + 1
                return
            self._warned[kind] = now
            held = self._held.pop(kind, 0)
        # Text: an exception that a log handler keeps holds the tensors of its frame, which may be views.
        said = [str(value) for value in values]
        logger.warning(text + (f" ({held} more since the last message)" if held else ""), *said)
