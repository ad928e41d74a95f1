"""Probe frames: golden ones, else zeros, through each turn of a revision until all parts of results come (rule 11).

They say that they are probes, so that a slice which keeps state forgets them (rule 6).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from converters.golden import Golden
from coordinator.actions import PROBES_AT_ONCE, Probe
from slicemq.datalink import DataLink
from slicemq.errors import STREAM_BUSY, FrameError
from slicemq.evidence import difference
from slicemq.frames import Frame, FrameHeader, decode_frame, encode_frame
from slicemq.messages import TensorSpec
from slicemq.topics import Topics

logger = logging.getLogger("slicemq.coordinator.probe")
# A probe frame is sent again when no answer came for this long; doubled each time, because a slow chain
# would otherwise be filled with probes.
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 15.0
_SEND_SECONDS = 0.5
_MOST_ERRORS = 2
"""Error frames of one probe frame that end the probing: one alone may be of something that passes."""


Item = tuple[int, int]
"""A turn, and the number of a golden frame."""


@dataclass
class _Running:
    probe: Probe
    next_at: float = 0.0
    wait: float = _FIRST_WAIT
    golden: tuple[Golden, ...] = ()
    parts: dict[int, dict[int, Frame]] = field(default_factory=dict)
    # (turn, frame) of which no probe has come yet, those of them that were sent last, and all by their number.
    left: list[Item] = field(default_factory=list)
    asked: set[Item] = field(default_factory=set)
    sent: dict[int, Item] = field(default_factory=dict)
    errors: Counter[Item] = field(default_factory=Counter)


class Prober:
    """Sends probe frames over `link` and calls `on_passed(pipeline, revision)` from the link's thread.

    `on_failed(pipeline, revision, why)` where a result is not the one that a golden frame has, or a slice ends the
    same frame twice with an error.
    """

    def __init__(
        self,
        link: DataLink,
        topics: Topics,
        client: str,
        on_passed: Callable[[str, str], None],
        on_failed: Callable[[str, str, str], None] = lambda pipeline, revision, why: None,
    ) -> None:
        self._link = link
        self._topics = topics
        self._client = client
        self._on_passed = on_passed
        self._on_failed = on_failed
        self._running: dict[tuple[str, str], _Running] = {}
        self._lock = threading.Lock()
        self._stream = int.from_bytes(np.random.default_rng().bytes(8), "big")
        self._sequence = 0
        self._now = 0.0
        # Once, for all pipelines: to subscribe later would make the coordinator wait for the broker.
        link.subscribe([topics.results("+", client)])

    def start(self, probe: Probe, golden: tuple[Golden, ...] = ()) -> None:
        """Begin to probe a revision; `tick` sends. `golden`: the frames of its golden file (none: zeros)."""
        used = golden[: probe.frames]
        items = [(turn, number) for number in range(max(1, len(used))) for turn in range(probe.route.turns)]
        with self._lock:
            self._running[probe.pipeline, probe.revision] = _Running(probe, golden=used, left=items)

    def stop(self, pipeline: str, revision: str) -> None:
        """Forget a revision."""
        with self._lock:
            self._running.pop((pipeline, revision), None)

    def tick(self, now: float) -> None:
        """Send what is due."""
        with self._lock:
            self._now = now
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
            frame = decode_frame(payload)
            header = frame.header
        except FrameError as error:
            logger.warning("%s: dropped: %s", topic, error)
            return
        name = self._topics.parts(topic)[1]
        with self._lock:
            running = self._running.get((name, header.revision))
            if running is None or header.client != self._client or header.stream != self._stream:
                return
            item = running.sent.get(header.sequence)
            if item not in running.left:
                return
            if header.error:
                logger.warning("probe of %s %s: %s %s", name, header.revision, header.error, header.message)
                fault = self._error(running, item, header)
                if not fault:
                    return
            else:
                if header.parts != running.probe.route.lane(item[0]).parts:
                    return
                # A golden frame's tensors are compared when all are there; their bytes may be lent until then.
                seen = running.parts.setdefault(header.sequence, {})
                seen[header.part] = decode_frame(bytes(payload)) if running.golden else frame
                if len(seen) < header.parts:
                    return
                del running.parts[header.sequence]
                fault = _fault(running, item, seen) if running.golden else ""
            if fault:
                self._running.pop((name, header.revision))
            else:
                running.left.remove(item)
                running.asked.discard(item)
                if not running.asked:
                    running.next_at, running.wait = 0.0, _FIRST_WAIT
            passed = not running.left
        if fault:
            self._on_failed(name, header.revision, fault)
        elif passed:
            self._on_passed(name, header.revision)

    def _error(self, running: _Running, item: Item, header: FrameHeader) -> str:
        """An error frame: what ends the probing, or empty where the frame is sent once more."""
        # Each of a frame's slices may end it with an error of its own: they count once.
        del running.sent[header.sequence]
        running.parts.pop(header.sequence, None)
        if header.error == STREAM_BUSY:
            return ""
        running.errors[item] += 1
        if running.errors[item] >= _MOST_ERRORS:
            return f"probe frame: {header.error}: {header.message}"
        running.next_at, running.wait = self._now + _FIRST_WAIT, _FIRST_WAIT
        return ""

    def _send(self, running: _Running) -> None:
        with self._lock:
            items = running.left[:PROBES_AT_ONCE]
            running.asked = set(items)
        for item in items:
            if not self._send_item(running, item):
                # What is left waits for its time: the coordinator must not stand before a full link.
                return

    def _send_item(self, running: _Running, item: Item) -> bool:
        probe, route, (turn, number) = running.probe, running.probe.route, item
        with self._lock:
            self._sequence += 1
            self._sequence += (turn - self._sequence) % route.turns
            header = FrameHeader(
                self._client, self._stream, self._sequence, time.time(), probe.revision, probe=True
            )
            running.sent[self._sequence] = item
        known = running.golden[number].inputs if running.golden else ()
        given = {spec.index: array for spec, array in zip(probe.inputs, known, strict=False)}
        for bundle in route.lane(header.sequence).entry:
            tensors = [(spec, given[spec.index] if given else _zeros(spec)) for spec in bundle.tensors]
            topic = self._topics.data(probe.pipeline, probe.revision, bundle.id, route.turn(header.sequence))
            if not self._link.send(topic, encode_frame(header, tensors, bundle.codec), timeout=_SEND_SECONDS):
                return False
        return True


def _fault(running: _Running, item: Item, parts: Mapping[int, Frame]) -> str:
    """How a result differs from what its golden frame has; empty: it does not by more than may be."""
    probe, frame = running.probe, running.golden[item[1]]
    check = probe.golden
    allowed = max(frame.tolerance, check.tolerance if check is not None else 0.0)
    made = {index: array for part in parts.values() for index, array in part.arrays().items()}
    for spec, expected in zip(probe.outputs, frame.outputs, strict=False):
        if spec.index not in made:
            return f"golden frame: output {spec.name!r} is missing"
        off = difference({0: expected}, {0: made[spec.index]})
        most = max(allowed, probe.coarse)
        if not off <= most:
            differs = f"output {spec.name!r} differs by {off:.3g}, at most {most:.3g} may be (frame {item[1]})"
            return f"golden frame: {differs}"
        if off > allowed:
            what = f"output {spec.name!r} differs by {off:.3g} from its golden frame, more than {allowed:.3g}"
            logger.warning("%s %s: %s; it serves, for nothing else does", probe.pipeline, probe.revision, what)
    return ""


def _zeros(spec: TensorSpec) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return np.zeros([max(1, size) if size < 0 else size for size in spec.shape], np.dtype(spec.dtype))
