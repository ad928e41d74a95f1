"""Probe frames: zeros sent through each turn of a revision until all parts of a result come (protocol rule 11).

They say that they are probes, so that a slice which keeps state forgets them (rule 6).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from coordinator.actions import PROBES_AT_ONCE, Probe
from slicemq.datalink import DataLink
from slicemq.errors import FrameError
from slicemq.frames import FrameHeader, decode_frame, encode_frame
from slicemq.messages import TensorSpec
from slicemq.topics import Topics

logger = logging.getLogger("slicemq.coordinator.probe")
# A probe frame is sent again when no answer came for this long; doubled each time, because a slow chain
# would otherwise be filled with probes.
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 15.0
_SEND_SECONDS = 0.5


@dataclass
class _Running:
    probe: Probe
    next_at: float = 0.0
    wait: float = _FIRST_WAIT
    parts: dict[int, set[int]] = field(default_factory=dict)
    # Turns through which no probe has come yet, and those of them that frames were sent to last.
    left: list[int] = field(default_factory=list)
    asked: set[int] = field(default_factory=set)


class Prober:
    """Sends probe frames over `link` and calls `on_passed(pipeline, revision)` from the link's thread."""

    def __init__(self, link: DataLink, topics: Topics, client: str, on_passed: Callable[[str, str], None]) -> None:
        self._link = link
        self._topics = topics
        self._client = client
        self._on_passed = on_passed
        self._running: dict[tuple[str, str], _Running] = {}
        self._lock = threading.Lock()
        self._stream = int.from_bytes(np.random.default_rng().bytes(8), "big")
        self._sequence = 0
        # Once, for all pipelines: to subscribe later would make the coordinator wait for the broker.
        link.subscribe([topics.results("+", client)])

    def start(self, probe: Probe) -> None:
        """Begin to probe a revision; `tick` sends."""
        with self._lock:
            self._running[probe.pipeline, probe.revision] = _Running(probe, left=list(range(probe.route.turns)))

    def stop(self, pipeline: str, revision: str) -> None:
        """Forget a revision."""
        with self._lock:
            self._running.pop((pipeline, revision), None)

    def tick(self, now: float) -> None:
        """Send what is due."""
        with self._lock:
            due = [running for running in self._running.values() if now >= running.next_at]
            for running in due:
                running.next_at = now + running.wait
                running.wait = min(2 * running.wait, _LONGEST_WAIT)
        for running in due:
            try:
                self._send(running)
            except Exception as error:  # noqa: BLE001 - a revision that cannot be probed must not end the coordinator
                logger.warning(
                    "probe of %s %s cannot be sent: %s", running.probe.pipeline, running.probe.revision, error
                )

    def on_frame(self, topic: str, payload: bytes | memoryview) -> None:
        """A frame on this prober's results topic."""
        try:
            header = decode_frame(payload).header
        except FrameError as error:
            logger.warning("%s: dropped: %s", topic, error)
            return
        name = self._topics.parts(topic)[1]
        with self._lock:
            running = self._running.get((name, header.revision))
            if running is None or header.client != self._client or header.stream != self._stream:
                return
            if header.error:
                logger.warning("probe of %s %s: %s %s", name, header.revision, header.error, header.message)
                return
            turn = header.sequence % running.probe.route.turns
            if turn not in running.left or header.parts != running.probe.route.lane(turn).parts:
                return
            seen = running.parts.setdefault(header.sequence, set())
            seen.add(header.part)
            if len(seen) < header.parts:
                return
            running.left.remove(turn)
            running.asked.discard(turn)
            if not running.asked:
                running.next_at, running.wait = 0.0, _FIRST_WAIT
            passed = not running.left
        if passed:
            self._on_passed(name, header.revision)

    def _send(self, running: _Running) -> None:
        with self._lock:
            turns = running.left[:PROBES_AT_ONCE]
            running.asked = set(turns)
        for turn in turns:
            if not self._send_turn(running.probe, turn):
                # What is left waits for its time: the coordinator must not stand before a full link.
                return

    def _send_turn(self, probe: Probe, turn: int) -> bool:
        route = probe.route
        with self._lock:
            self._sequence += 1
            self._sequence += (turn - self._sequence) % route.turns
            header = FrameHeader(
                self._client, self._stream, self._sequence, time.time(), probe.revision, probe=True
            )
        for bundle in route.lane(header.sequence).entry:
            tensors = [(spec, _zeros(spec)) for spec in bundle.tensors]
            topic = self._topics.data(probe.pipeline, probe.revision, bundle.id, route.turn(header.sequence))
            if not self._link.send(topic, encode_frame(header, tensors, bundle.codec), timeout=_SEND_SECONDS):
                return False
        return True


def _zeros(spec: TensorSpec) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return np.zeros([max(1, size) if size < 0 else size for size in spec.shape], np.dtype(spec.dtype))
