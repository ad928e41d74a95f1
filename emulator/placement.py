"""Where the slices of a pipeline run now, followed on its retained plan."""

from __future__ import annotations

import secrets
import threading
from types import TracebackType

from slicemq.errors import PipelineError
from slicemq.messages import PlanDocument, decode
from slicemq.options import BrokerOptions
from slicemq.session import Session
from slicemq.topics import Topics

_CONNECT_SECONDS = 10.0


class Placement:
    """A context manager that knows the newest plan of one pipeline."""

    def __init__(self, broker: BrokerOptions, cluster: str, name: str) -> None:
        self._topic = Topics(cluster).plan(name)
        self._plan: PlanDocument | None = None
        self._came = threading.Event()
        self._session = Session(broker, f"watch-{secrets.token_hex(4)}", on_message=self._on_message)

    def __enter__(self) -> Placement:
        self._session.subscribe(self._topic)
        self._session.start()
        self._session.wait_up(_CONNECT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.stop()

    def nodes(self) -> list[tuple[str, str]]:
        """(slice, node) in the order of the slices. Raises PipelineError while there is no plan."""
        if not self._came.wait(_CONNECT_SECONDS) or self._plan is None:
            raise PipelineError(f"{self._topic}: there is no plan")
        return [(str(item["id"]), str(node)) for item in self._plan.plan["slices"] for node in item["nodes"]]

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if payload:
            self._plan = decode(PlanDocument, payload, topic)
            self._came.set()
