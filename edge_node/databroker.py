"""This board's own data broker: whether it answers, so that the node advertises it only while it does. No numpy."""

from __future__ import annotations

import logging
import secrets
import threading
import time

from slicemq.errors import BrokerError, SliceMQError
from slicemq.options import BrokerOptions
from slicemq.session import Session

logger = logging.getLogger("slicemq.node.databroker")

FIRST_SECONDS = 5.0
"""How long it may take to answer when the node starts."""
GONE_SECONDS = 1.0
"""A connection that comes back within this time was no loss."""
BACK_SECONDS = 3.0
"""A broker that comes back is advertised after it has stayed for this time."""
_POLL_SECONDS = 0.05


class DataBrokerWatch:
    """Keeps a connection to the board's own data broker, and says whether other nodes should use it."""

    def __init__(self, options: BrokerOptions, node: str, probe_topic: str) -> None:
        """`probe_topic` is where the node sends itself a message to see that one comes through."""
        self._options = options
        self._topic = probe_topic
        self._word = secrets.token_hex(8).encode()
        self._echoed = threading.Event()
        self._session = Session(
            options, f"{node}-databroker-{secrets.token_hex(4)}", on_message=self._heard, keepalive=2
        )
        self._answers = False
        self._since: float | None = None
        """Since when the connection is in the other state than `_answers` says."""

    def start(self) -> bool:
        """Connect; whether the broker lets a message through. When it does not, a warning says why."""
        self._session.subscribe(self._topic)
        self._session.start()
        until = time.monotonic() + FIRST_SECONDS
        try:
            self._session.wait_up(FIRST_SECONDS)
            while not self._echoed.is_set() and time.monotonic() < until:
                self._session.publish(self._topic, self._word, qos=0)
                self._echoed.wait(10 * _POLL_SECONDS)
            if not self._echoed.is_set():
                raise BrokerError(f"broker {self._options.describe()} does not send back what is published there")
            self._answers = True
        except SliceMQError as error:
            logger.warning("the data broker is left out until it answers: %s", error)
        return self._answers

    def look(self, now: float) -> bool:
        """Whether it is to be advertised at monotonic time `now`; call it every now and then."""
        works = self._session.up and self._echoed.is_set()
        if self._session.up and not self._echoed.is_set():
            self._session.publish(self._topic, self._word, qos=0)
        if works == self._answers:
            self._since = None
            return self._answers
        if self._since is None:
            self._since = now
        if now - self._since >= (BACK_SECONDS if works else GONE_SECONDS):
            self._answers, self._since = works, None
            where = self._options.describe()
            if works:
                logger.info("the data broker %s answers: other nodes may use it", where)
            else:
                logger.warning("the data broker %s does not answer: it is left out until it does", where)
        return self._answers

    def stop(self) -> None:
        """Disconnect."""
        self._session.stop()

    def _heard(self, topic: str, payload: bytes, _retained: bool) -> None:
        if topic == self._topic and payload == self._word:
            self._echoed.set()
