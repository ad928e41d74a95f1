"""The heartbeats of a node: a thread of their own, so that nothing that the node does delays them (rule 18)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from slicemq.messages import Heartbeat, SliceBeat, Stamp, encode


class Pulse:
    """Publishes a heartbeat every `seconds`; what it tells next is set by any thread.

    beats, seen: the slices' figures and the highest stamp; spare: bytes that a spare worker takes.
    """

    def __init__(self, node: str, epoch: str, seconds: float, publish: Callable[[bytes], object]) -> None:
        self._node = node
        self._epoch = epoch
        self._seconds = seconds
        self._publish = publish
        self._stopping = threading.Event()
        self.counter = 0
        self.beats: tuple[SliceBeat, ...] = ()
        self.seen: Stamp | None = None
        self.spare = 0

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._loop, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """No more heartbeats."""
        self._stopping.set()

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            beats = self.beats
            self.counter += 1
            beat = Heartbeat(
                node=self._node,
                epoch=self._epoch,
                counter=self.counter,
                load=os.getloadavg()[0],
                memory_used=_resident() + self.spare + sum(one.memory for one in beats),
                slices=beats,
                seen=self.seen,
            )
            self._publish(encode(beat))
            due = max(due + self._seconds, time.monotonic())


def _resident() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return 0
