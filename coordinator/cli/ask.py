"""Asking the coordinator: one request, repeated until its one answer comes (protocol rule 24)."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from coordinator.cli.common import Network
from slicemq.errors import CoordinatorError, RequestRefusedError, SliceMQError
from slicemq.messages import CoordinatorState, Request, Response, decode, encode
from slicemq.session import Session

_REPEAT_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
# A coordinator beats four times a second; one that its broker forgot to declare lost does not.
_SILENCE_SECONDS = 4.0
Listener = Callable[[str, bytes], None]


class Caller:
    """A connected client of the coordinator. `on` hands what comes on a topic to a listener."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.id = f"cli-{secrets.token_hex(4)}"
        self._listeners: dict[str, Listener] = {}
        self._answers: dict[str, Response] = {}
        self._arrived = threading.Condition()
        self._coordinator = ""
        self._heard = time.monotonic()
        self.session = Session(net.options, self.id, on_message=self._on_message, on_up=self._on_up)

    def on(self, topic: str, listener: Listener) -> None:
        """Subscribe; the listener runs on the network's thread."""
        self._listeners[topic] = listener
        self.session.subscribe(topic)

    def ask(self, verb: str, body: dict[str, Any], timeout: float) -> Response:
        """Send a request and wait for its answer.

        Raises CoordinatorError when no coordinator is there or none answers in `timeout` seconds, and the error
        that the coordinator answered with, under its exit code.
        """
        request = Request(secrets.token_hex(8), body)
        topic = self.net.topics.request(self.id, verb)
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self.check_coordinator()
            self.session.publish(topic, encode(request))
            with self._arrived:
                self._arrived.wait_for(lambda: request.transaction in self._answers, min(_REPEAT_SECONDS, left))
                answer = self._answers.pop(request.transaction, None)
            if answer is not None:
                if answer.error:
                    raise _as_error(answer)
                return answer
        raise CoordinatorError(f"the coordinator of cluster {self.net.cluster} did not answer within {timeout:g} s")

    def check_coordinator(self) -> None:
        """Raise CoordinatorError unless a coordinator says that it is there."""
        # Silence says nothing while we do not hear (as in protocol rule 20).
        silent = self.session.up and time.monotonic() - self._heard > _SILENCE_SECONDS
        if self._coordinator not in ("starting", "ready") or silent:
            state = "silent" if silent and self._coordinator in ("starting", "ready") else self._coordinator
            word = f"it is {state}" if state else "none has ever been there"
            raise CoordinatorError(
                f"no coordinator in cluster {self.net.cluster} at {self.net.options.describe()} ({word}); "
                "start one with 'slicemq coordinator run'"
            )

    def open(self) -> None:
        """Connect and read who coordinates. Raises BrokerError."""
        topics = self.net.topics
        self.session.subscribe(topics.response(self.id))
        self.on(topics.coordinator, self._on_coordinator)
        self.on(topics.coordinator_marker, self._on_beat)
        self.session.start()
        self.session.wait_up(_CONNECT_SECONDS)
        for topic, payload in self.session.snapshot(topics.coordinator).items():
            self._on_coordinator(topic, payload)

    def _on_up(self) -> None:
        self._heard = time.monotonic()

    def _on_beat(self, topic: str, payload: bytes) -> None:
        self._heard = time.monotonic()

    def _on_coordinator(self, topic: str, payload: bytes) -> None:
        if payload:
            self._coordinator = decode(CoordinatorState, payload, topic).state

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic == self.net.topics.response(self.id):
            answer = decode(Response, payload, topic)
            with self._arrived:
                self._answers[answer.transaction] = answer
                self._arrived.notify_all()
        elif topic in self._listeners:
            self._listeners[topic](topic, payload)


@contextmanager
def calling(net: Network) -> Iterator[Caller]:
    """A Caller that is connected inside the block."""
    caller = Caller(net)
    try:
        caller.open()
        yield caller
    finally:
        caller.session.stop()


def _as_error(answer: Response) -> SliceMQError:
    error: SliceMQError = RequestRefusedError(answer.error)
    if answer.exit_code:
        # The coordinator's own error ends this program with its own number.
        error.exit_code = answer.exit_code
    return error
