"""An operator at the command line, simulated: requests one after the other, each repeated until answered. PURE."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from coordinator.intents import Intent
from simulator.broker import Broker
from simulator.clock import Process
from simulator.session import Session
from simulator.wire import Wire
from slicemq.messages import Request, Response
from slicemq.topics import Topics

_REPEAT_SECONDS = 2.0


class Operator:
    """`on_answer(verb, body, response)` is told each answer."""

    def __init__(
        self,
        broker: Broker,
        process: Process,
        topics: Topics,
        wire: Wire,
        on_answer: Callable[[str, dict[str, Any], Response], None],
    ) -> None:
        self.process = process
        self._topics = topics
        self._wire = wire
        self._on_answer = on_answer
        self._waiting: deque[tuple[str, Request]] = deque()
        self._asked = 0
        self.session = Session(
            broker,
            process,
            process.name,
            [topics.response(process.name)],
            on_message=self._on_message,
            on_up=self._ask,
        )

    @property
    def idle(self) -> bool:
        """Whether every request was answered."""
        return not self._waiting

    def start(self) -> None:
        """Connect."""
        self.session.start()
        self._again()

    def deploy(self, intent: Intent, policy: dict[str, Any] | None = None) -> None:
        """Ask for a model under a name; `policy`: how it takes over from what serves."""
        body = {"name": intent.name, "model": asdict(intent.model), "options": intent.options}
        self.ask("deploy", body if policy is None else {**body, "rollout": policy})

    def ask(self, verb: str, body: dict[str, Any]) -> None:
        """Ask for something, when what was asked before is answered."""
        self._asked += 1
        self._waiting.append((verb, Request(f"t{self._asked}", body)))
        if len(self._waiting) == 1:
            self._ask()

    def _again(self) -> None:
        self._ask()
        self.process.after(_REPEAT_SECONDS, self._again)

    def _ask(self) -> None:
        if self._waiting:
            verb, request = self._waiting[0]
            self.session.publish(self._topics.request(self.process.name, verb), self._wire.pack(request))

    def _on_message(self, topic: str, payload: Any, _retained: bool) -> None:
        response = self._wire.unpack(Response, payload, topic)
        if self._waiting and self._waiting[0][1].transaction == response.transaction:
            verb, request = self._waiting.popleft()
            self._on_answer(verb, request.body, response)
            self._ask()
