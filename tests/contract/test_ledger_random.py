"""Random interleavings: each frame ends exactly once, in order, and never by a mixture (rules 2-5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slicemq.ledger import Ledger
from slicemq.messages import PipelineStateWord, Route, RouteStateWord
from slicemq.outcomes import Action, Deliver, Send
from tests.contract.ledger_tools import SPEC, STREAM, document, header, route, turning

MORE = 5  # revisions that the world may make


class World(RuleBasedStateMachine):
    """A pipeline that answers late, twice, in any order, in one or two parts, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ledger = Ledger("c-1", STREAM, resend_after=1.0)
        self.wire: list[tuple[int, Route, int]] = []
        self.seen: list[tuple[int, Route, int]] = []
        self.delivered: list[Deliver] = []
        self.sent_to: dict[int, set[str]] = {}
        self.counter = 0
        self.routes: list[Route] = []
        self.state: PipelineStateWord = "running"
        self.connected = False
        self.resend = 0
        self.new_route(1)

    # ---- helpers

    def apply(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                self.delivered.append(action)
                continue
            assert isinstance(action, Send)
            assert self.connected
            assert self.state == "running"
            assert {r.revision: r.state for r in self.routes}[action.route.revision] == "active"
            assert action.inputs == {0: f"inputs {action.sequence}"}
            self.sent_to.setdefault(action.sequence, set()).add(action.route.revision)
            for part in range(action.route.lane(action.sequence).parts):
                self.wire.append((action.sequence, action.route, part))

    def publish(self) -> None:
        self.counter += 1
        self.apply(
            self.ledger.document(
                self.now, document(self.counter, *self.routes, state=self.state, resend=self.resend, window=10**6)
            )
        )

    def answer(self, sequence: int, which: Route, part: int) -> list[Action]:
        # Both tensors carry the number of their revision, so that a mixture would show.
        mark = int(which.revision.split("-")[0])
        both: dict[int, Any] = {
            8: np.full((1, 4), sequence * 100 + mark, np.float32),
            9: np.array([mark], np.int8),
        }
        parts = which.lane(sequence).parts
        mine: dict[int, Any] = both if parts == 1 else {8 + part: both[8 + part]}
        return self.ledger.result(self.now, header(sequence, which.revision, part, parts), mine)

    # ---- what may happen

    @rule()
    def submit(self) -> None:
        number = self.ledger.counters.submitted
        sequence, actions = self.ledger.submit(self.now, {0: f"inputs {number}"}, SPEC)
        assert sequence == number
        self.apply(actions)

    @rule(data=st.data())
    @precondition(lambda self: self.wire)
    def arrive(self, data: st.DataObject) -> None:
        message = self.wire.pop(data.draw(st.integers(0, len(self.wire) - 1)))
        self.seen.append(message)
        self.apply(self.answer(*message))

    @rule(data=st.data())
    @precondition(lambda self: self.seen)
    def arrive_again(self, data: st.DataObject) -> None:
        self.apply(self.answer(*data.draw(st.sampled_from(self.seen))))

    @rule(data=st.data())
    @precondition(lambda self: self.wire)
    def lose_message(self, data: st.DataObject) -> None:
        self.wire.pop(data.draw(st.integers(0, len(self.wire) - 1)))

    @rule(sequence=st.integers(0, 30), mark=st.integers(1, 9), part=st.integers(0, 2), parts=st.integers(1, 3))
    def forged(self, sequence: int, mark: int, part: int, parts: int) -> None:
        """A result under a revision of another digest, which no frame was ever sent to."""
        bad: dict[int, Any] = {8: np.full((1, 4), -1, np.float32), 9: np.array([-1], np.int8)}
        assert self.ledger.result(self.now, header(sequence, f"{mark}-ffffffff", part, parts), bad) == []

    @rule(parts=st.integers(1, 2))
    @precondition(lambda self: len(self.routes) < MORE)
    def new_route(self, parts: int) -> None:
        self.routes.append(route(f"{len(self.routes) + 1}-aaaaaaaa", parts=parts))
        self.publish()

    @rule(parts=st.lists(st.integers(1, 2), min_size=2, max_size=4))
    @precondition(lambda self: len(self.routes) < MORE)
    def new_route_of_several_turns(self, parts: list[int]) -> None:
        self.routes.append(turning(f"{len(self.routes) + 1}-aaaaaaaa", *parts))
        self.publish()

    @rule(data=st.data(), state=st.sampled_from(["draining", "lost", "active"]))
    def change_route(self, data: st.DataObject, state: RouteStateWord) -> None:
        place = data.draw(st.integers(0, len(self.routes) - 1))
        old = self.routes[place]
        if old.state != "lost":
            self.routes[place] = replace(old, state=state)
            self.publish()

    @rule(state=st.sampled_from(["running", "paused"]))
    def change_state(self, state: PipelineStateWord) -> None:
        self.state = state
        self.publish()

    @rule()
    def ask_again(self) -> None:
        self.resend += 1
        self.publish()

    @rule()
    def connect(self) -> None:
        self.connected = True
        self.apply(self.ledger.connected(self.now))

    @rule()
    def disconnect(self) -> None:
        self.connected = False
        self.ledger.disconnected(self.now)

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.apply(self.ledger.tick(self.now))

    @invariant()
    def outcomes_are_in_order_and_whole(self) -> None:
        assert [action.outcome.sequence for action in self.delivered] == list(range(len(self.delivered)))
        for action in self.delivered:
            outcome = action.outcome
            assert outcome.reason == ""
            assert outcome.revision in self.sent_to[outcome.sequence]
            mark = int(outcome.revision.split("-")[0])
            assert outcome.tensors[8][0, 0] == outcome.sequence * 100 + mark
            assert outcome.tensors[9][0] == mark

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        counters = self.ledger.counters
        assert counters.submitted == counters.answered + counters.failed + self.ledger.unanswered

    def teardown(self) -> None:
        """In the end one route lives, the links are up, and every frame must be answered."""
        self.state, self.connected = "running", True
        self.routes.append(route("99-aaaaaaaa", parts=2))
        self.publish()
        self.apply(self.ledger.connected(self.now))
        while self.wire:
            self.apply(self.answer(*self.wire.pop()))
        assert self.ledger.unanswered == 0
        assert len(self.delivered) == self.ledger.counters.submitted
        self.outcomes_are_in_order_and_whole()
        assert self.ledger.close(self.now) == []


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
