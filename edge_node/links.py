"""The data links of one slice: one to the main broker, one to each data broker that carries one of its bundles.

Looks like a single `slicemq.datalink.DataLink`, and takes each topic to the broker that its bundle is on. The link
to the main broker is always there, because results and error frames travel on it.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from edge_node.fit import spec_bytes
from slicemq.datalink import DataLink, open_link
from slicemq.errors import BrokerError, BrokerRefusedError
from slicemq.frames import MAX_HEADER_BYTES
from slicemq.messages import Bundle, SliceAssignment
from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.options import BrokerOptions
from slicemq.topics import Topics
from slicemq.turns import topic_turns

logger = logging.getLogger("slicemq.node.links")

MAIN = ""
ANSWER_SECONDS = 20.0
"""How long a data broker may take to answer for the first time before the slice fails."""


class Links:
    """The links of the slice of `assignment`; `on_frame(topic, payload)` gets the frames of all of them.

    It is called on the links' own threads, for one frame at a time.
    """

    def __init__(
        self,
        node: str,
        topics: Topics,
        assignment: SliceAssignment,
        main: BrokerOptions,
        on_frame: Callable[[str, Any], None],
    ) -> None:
        """Raises ConfigError for a data broker that must not be entered with the credentials of `main`."""
        self._node = node
        self._topics = topics
        self._main_broker = main
        self._one_at_a_time = threading.Lock()
        self._receiver = 0
        self._on_frame = on_frame
        self._broker_of = broker_by_topic(topics, assignment)
        self._options = self._options_of(assignment)
        self._largest = largest_frame(assignment)
        self._links = {name: self._open(name) for name in self._options}
        self._set_carriers()
        self._subscribed: tuple[str, ...] = ()
        self._waits_until = 0.0
        self._answered: set[str] = {MAIN}

    def _options_of(self, assignment: SliceAssignment) -> dict[str, BrokerOptions]:
        main = self._main_broker
        names = {*broker_by_topic(self._topics, assignment).values()} - {MAIN}
        return {MAIN: main} | {name: main.at(assignment.brokers[name]) for name in sorted(names)}

    def _open(self, name: str) -> DataLink:
        client_id = f"{self._node}-data-{secrets.token_hex(4)}"
        return open_link(self._options[name], client_id, on_frame=self._receive, max_frame=self._largest)

    def _set_carriers(self) -> None:
        self._main = self._links[MAIN]
        self._carriers = {topic: self._links[name] for topic, name in self._broker_of.items() if name != MAIN}

    @property
    def up(self) -> bool:
        """Whether every link is up with all its subscriptions confirmed."""
        return all(link.up for link in self._links.values())

    @property
    def pending(self) -> int:
        """Bytes of frames that wait for the sockets."""
        return sum(link.pending for link in self._links.values())

    def down(self) -> tuple[str, ...]:
        """The URLs of the brokers whose links are down."""
        return tuple(self._options[name].describe() for name, link in self._links.items() if not link.up)

    def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe each topic on the link of its bundle's broker; where that is up, wait for the SUBACK.

        Raises BrokerRefusedError and BrokerError as `DataLink.subscribe` does.
        """
        self._subscribed = tuple(topics)
        for name, link in self._links.items():
            mine = [topic for topic in topics if self._broker_of.get(topic, MAIN) == name]
            if mine:
                link.subscribe(mine)

    def start(self) -> None:
        """Begin to connect, and come back after every loss."""
        self._waits_until = time.monotonic() + ANSWER_SECONDS
        for link in self._links.values():
            link.start()

    def leave(self, assignment: SliceAssignment) -> None:
        """Give up what `assignment` does not need, before whoever sends and receives here turns to it.

        Raises ConfigError as the links of `assignment` would.
        """
        options = self._options_of(assignment)
        kept = {name for name in options if options[name] == self._options.get(name)}
        if largest_frame(assignment) > self._largest:
            kept = set()
        for name, link in self._links.items():
            if name in kept:
                link.unsubscribe([one for one in self._subscribed if self._broker_of.get(one, MAIN) == name])
            else:
                link.stop()
        self._links = {name: link for name, link in self._links.items() if name in kept}
        self._answered &= {MAIN, *kept}

    def follow(self, assignment: SliceAssignment, topics: Sequence[str]) -> None:
        """After `leave`, with nobody sending: open what `assignment` needs besides, and subscribe `topics`."""
        self._options = self._options_of(assignment)
        self._largest = max(self._largest, largest_frame(assignment))
        self._broker_of = broker_by_topic(self._topics, assignment)
        opened = {name: self._open(name) for name in self._options if name not in self._links}
        self._links = self._links | opened
        self._set_carriers()
        self.subscribe(topics)
        self._waits_until = time.monotonic() + ANSWER_SECONDS
        for link in opened.values():
            link.start()

    def wait_up(self, timeout: float) -> None:
        """Wait until all links are up at the same time (protocol rule 11).

        Raises BrokerError while one is not, and BrokerRefusedError when a broker does not let us in or a data
        broker has not answered in `ANSWER_SECONDS`.
        """
        until = time.monotonic() + timeout
        for name, link in self._links.items():
            try:
                link.wait_up(max(0.0, until - time.monotonic()))
            except BrokerRefusedError:
                raise
            except BrokerError as error:
                if name not in self._answered and time.monotonic() >= self._waits_until:
                    raise BrokerRefusedError(f"the data broker of node {name}: {error}") from error
                raise
            self._answered.add(name)
        if not self.up:
            raise BrokerError(f"the link to {', '.join(self.down())} is down")

    def send(self, topic: str, parts: Sequence[bytes | memoryview], *, timeout: float = 30.0) -> bool:
        """Send a frame over the broker of its bundle; False: it was dropped."""
        # Whoever waits here while it receives would keep another link from receiving, and so from sending.
        patience = 0.0 if self._receiver == threading.get_ident() else timeout
        return self._carriers.get(topic, self._main).send(topic, parts, timeout=patience)

    def _receive(self, topic: str, payload: Any) -> None:
        with self._one_at_a_time:
            self._receiver = threading.get_ident()
            try:
                self._on_frame(topic, payload)
            finally:
                self._receiver = 0

    def stop(self) -> None:
        """Disconnect all."""
        for link in self._links.values():
            link.stop()


def largest_frame(assignment: SliceAssignment) -> int:
    """Bytes that no right frame for the slice exceeds: so that a wrong one cannot fill a small board's memory."""
    specs = [spec for bundle in assignment.inputs for spec in bundle.tensors]
    if any(size < 0 for spec in specs for size in spec.shape):
        return MAX_PAYLOAD
    plain = sum(spec_bytes(spec) for spec in specs)
    # Codecs add a few bytes to small tensors, and a block of LZ4 that packs nothing is a little longer.
    return min(MAX_PAYLOAD, plain + plain // 64 + 2 * MAX_HEADER_BYTES)


def broker_by_topic(topics: Topics, assignment: SliceAssignment) -> dict[str, str]:
    """Data topic of the slice -> the node whose data broker carries it (`MAIN`: the main broker)."""

    def of(bundle: Bundle) -> dict[str, str]:
        return {
            topics.data(assignment.pipeline, assignment.revision, bundle.id, turn): bundle.broker
            for turn in topic_turns(assignment.turns, assignment.of)
        }

    found: dict[str, str] = {}
    for bundle in (*assignment.inputs, *assignment.outputs):
        found |= of(bundle)
    return found
