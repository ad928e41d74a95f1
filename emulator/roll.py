"""Which nodes are ready, and whether a coordinator coordinates: followed on their retained documents."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from slicemq.errors import ProtocolError, SliceMQError
from slicemq.messages import CoordinatorState, NodeState, decode
from slicemq.options import BrokerOptions
from slicemq.session import Session
from slicemq.topics import Topics

_CONNECT_SECONDS = 10.0
_LOOK_SECONDS = 0.5


class Roll:
    """A context manager that knows the newest state of each node and of the coordinator."""

    def __init__(self, broker: BrokerOptions, cluster: str) -> None:
        self._topics = Topics(cluster)
        self._states: dict[str, str] = {}
        self._coordinator = ""
        self._changed = threading.Condition()
        self._session = Session(broker, f"roll-{secrets.token_hex(4)}", on_message=self._on_message)

    def __enter__(self) -> Roll:
        self._session.subscribe(self._topics.node("+", "state"), self._topics.coordinator)
        self._session.start()
        self._session.wait_up(_CONNECT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.stop()

    def state(self, node: str) -> str:
        """The node's state as it says itself (empty: nothing was heard)."""
        with self._changed:
            return self._states.get(node, "")

    def wait_ready(
        self,
        nodes: Iterable[str],
        timeout: float,
        *,
        check: Callable[[], None] = lambda: None,
        coordinator: bool = True,
    ) -> None:
        """Wait until `nodes` are ready, and (`coordinator`) a coordinator is; `check` may raise all the while.

        Raises SliceMQError, which names who is missing, after `timeout` seconds.
        """
        wanted = set(nodes)
        deadline = time.monotonic() + timeout
        while True:
            # First: what has just died is still retained as ready.
            check()
            with self._changed:
                missing = sorted(name for name in wanted if self._states.get(name) != "ready")
                if coordinator and self._coordinator != "ready":
                    missing.insert(0, "coordinator")
                if not missing:
                    return
                self._changed.wait(_LOOK_SECONDS)
            if time.monotonic() > deadline:
                raise SliceMQError(f"not ready after {timeout:g} s: {', '.join(missing)}")

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if not payload:
            return
        with self._changed:
            try:
                if topic == self._topics.coordinator:
                    self._coordinator = decode(CoordinatorState, payload, topic).state
                else:
                    state = decode(NodeState, payload, topic)
                    self._states[state.node] = state.state
            except ProtocolError:
                return
            self._changed.notify_all()
