"""What a slice that keeps state does with each frame (protocol rule 6): the table at the head of stream.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_node.stream import LEASE_SECONDS, Answer, Refusal, StreamKeeper
from slicemq.frames import FrameHeader
from slicemq.ledger import Ledger
from slicemq.messages import Route, RouteStateWord
from slicemq.outcomes import Action, Deliver, Outcome, Release
from tests.contract.ledger_tools import SPEC, document, header, route, tensors

R = "1-aaaaaaaa"


def frame(sequence: int, first: int = 0, client: str = "ann", stream: int = 1, probe: bool = False) -> FrameHeader:
    return FrameHeader(client, stream, sequence, 0.0, R, first=first, probe=probe)


def run(keeper: StreamKeeper, one: FrameHeader, now: float = 0.0) -> str:
    """The answer in a word; what is to be run has run."""
    answer = keeper.judge(one, now)
    if isinstance(answer, Refusal):
        return answer.reason
    if answer in (Answer.RUN, Answer.RENEW):
        keeper.ran(now)
    return answer.value


@pytest.fixture(params=[True, False], ids=["leases", "follows"])
def keeper(request: pytest.FixtureRequest) -> StreamKeeper:
    return StreamKeeper(leases=request.param)


def test_frames_run_in_order_and_a_repeat_is_answered_from_the_cache(keeper: StreamKeeper) -> None:
    said = [run(keeper, frame(n)) for n in (0, 1, 1, 2, 0, 1, 2, 3)]
    assert said == ["renew", "run", "repeat", "run", "drop", "drop", "repeat", "run"]


def test_a_gap_and_a_state_that_is_not_here_are_refused(keeper: StreamKeeper) -> None:
    assert run(keeper, frame(5)) == "stream-reset"
    assert run(keeper, frame(0)) == "renew"
    assert run(keeper, frame(2)) == "stream-reset"
    assert run(keeper, frame(1)) == "run"
    answer = keeper.judge(frame(4), 0.0)
    assert isinstance(answer, Refusal)
    assert "frame 2 is missing" in answer.message


def test_a_new_run_of_the_stream_begins_fresh_and_the_old_one_is_over(keeper: StreamKeeper) -> None:
    assert [run(keeper, frame(n)) for n in (0, 1)] == ["renew", "run"]
    assert run(keeper, frame(3, first=2)) == "stream-reset"
    assert run(keeper, frame(2, first=2)) == "renew"
    assert [run(keeper, frame(n)) for n in (0, 1, 2)] == ["drop", "drop", "drop"]
    assert run(keeper, frame(3, first=2)) == "run"


def test_another_client_waits_for_the_lease() -> None:
    keeper = StreamKeeper(leases=True, lease_seconds=10.0)
    assert run(keeper, frame(0), 0.0) == "renew"
    refused = keeper.judge(frame(0, client="bob"), 5.0)
    assert refused == Refusal("stream-busy", "client ann has the stream of this stateful pipeline")
    # Each frame of the holder renews it, repeats too; those of the other one do not.
    assert run(keeper, frame(0), 9.0) == "repeat"
    assert run(keeper, frame(0, client="bob"), 19.0) == "stream-busy"
    assert run(keeper, frame(3, client="bob"), 19.1) == "stream-reset"
    assert run(keeper, frame(1), 19.2) == "run"
    assert run(keeper, frame(0, client="bob"), 29.3) == "renew"
    assert run(keeper, frame(2), 29.4) == "stream-busy"


def test_a_lease_that_nobody_asks_for_does_not_end() -> None:
    keeper = StreamKeeper(leases=True)
    assert run(keeper, frame(0), 0.0) == "renew"
    assert run(keeper, frame(1), 1000.0) == "run"


def test_a_client_that_was_started_again_takes_its_own_lease_over(keeper: StreamKeeper) -> None:
    assert run(keeper, frame(0)) == "renew"
    assert run(keeper, frame(0, stream=2)) == "renew"
    assert run(keeper, frame(1)) == "stream-reset"


def test_a_slice_behind_another_follows() -> None:
    keeper = StreamKeeper(leases=False)
    assert run(keeper, frame(0)) == "renew"
    assert run(keeper, frame(1, client="bob")) == "stream-reset"
    assert run(keeper, frame(0, client="bob")) == "renew"
    assert run(keeper, frame(1)) == "stream-reset"


def test_a_lease_is_given_back() -> None:
    keeper = StreamKeeper(leases=True)
    run(keeper, frame(5, first=5))
    for other in (frame(4), frame(9, client="bob"), frame(9, stream=2)):
        keeper.release(other)
        assert run(keeper, frame(0, client="bob")) == "stream-busy"
    keeper.release(frame(9))
    assert not keeper.holds
    assert run(keeper, frame(6, first=5)) == "stream-reset"
    assert run(keeper, frame(0, client="bob")) == "renew"


def test_rule_11_a_probe_leaves_no_trace(keeper: StreamKeeper) -> None:
    probe = frame(7, client="coordinator", probe=True)
    assert run(keeper, probe) == "renew"
    assert not keeper.holds
    assert run(keeper, replace(probe, sequence=8)) == "renew"
    assert run(keeper, frame(0)) == "renew"
    assert run(keeper, replace(probe, sequence=9), 100.0) == "drop"
    assert run(keeper, frame(1)) == "run"


def test_after_a_frame_that_failed_only_the_first_one_is_run(keeper: StreamKeeper) -> None:
    assert keeper.judge(frame(0), 0.0) is Answer.RENEW
    keeper.failed()
    assert run(keeper, frame(1)) == "stream-reset"
    assert run(keeper, frame(0)) == "renew"
    assert keeper.judge(frame(1), 0.0) is Answer.RUN
    keeper.failed()
    assert [run(keeper, frame(n)) for n in (1, 2)] == ["stream-reset", "stream-reset"]
    assert run(keeper, frame(2, first=2)) == "renew"


def test_a_failure_keeps_the_lease() -> None:
    keeper = StreamKeeper(leases=True)
    keeper.judge(frame(0), 0.0)
    keeper.failed()
    assert run(keeper, frame(0, client="bob"), 1.0) == "stream-busy"
    assert run(keeper, frame(0, client="bob"), 1.0 + LEASE_SECONDS) == "renew"


def test_a_failed_probe_holds_nothing(keeper: StreamKeeper) -> None:
    keeper.judge(frame(7, client="coordinator", probe=True), 0.0)
    keeper.failed()
    assert not keeper.holds


# ---- the whole path: clients, a revision's stateful slices one behind the other, and a careless network

Name = tuple[str, int, int]
Word = tuple[Any, ...]


@dataclass
class Node:
    """A slice whose state is the list of all frames that it has run: what it gives for a frame is that list."""

    lends: bool
    state: tuple[Word, ...] = ()
    kept: tuple[Word, ...] = ()

    def __post_init__(self) -> None:
        self.keeper = StreamKeeper(leases=self.lends)

    def take(self, head: FrameHeader, came: tuple[Word, ...], now: float) -> tuple[Word, ...] | Refusal | None:
        answer = self.keeper.judge(head, now)
        if isinstance(answer, Refusal):
            return answer
        if answer is Answer.DROP:
            return None
        if answer is Answer.REPEAT:
            return self.kept
        self.state = (*self.state, came) if answer is Answer.RUN else (came,)
        self.kept = self.state
        self.keeper.ran(now)
        return self.kept


class Path(RuleBasedStateMachine):
    """Two clients, two stateful slices; messages are lost, doubled and late, slices and clients are started again.

    Each client checks every answer that it takes: it must be what one device gives that has met exactly the frames
    since the last failure that the client has seen, in order.
    """

    SLICES = 2

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lives = 0
        self.counter = 0
        self.nodes: dict[str, list[Node]] = {}
        self.routes: list[Route] = []
        self.ledgers: dict[str, Ledger] = {}
        self.taken: dict[str, list[int]] = {}
        self.since: dict[str, int] = {}
        self.wire: list[tuple[FrameHeader, int, tuple[Word, ...]]] = []
        self.back: list[tuple[FrameHeader, int]] = []
        # What frames carry back is the place of their answer in this list.
        self.values: list[tuple[Word, ...]] = []
        self.right = 0

    @initialize()
    def begin(self) -> None:
        self.new_revision("draining")
        for client in ("ann", "bob"):
            self.restart_client(client)

    def apply(self, client: str, actions: list[Action]) -> None:
        ledger = self.ledgers[client]
        for action in actions:
            if isinstance(action, Deliver):
                self.check(client, action.outcome)
            elif isinstance(action, Release):
                for node in filter(lambda node: node.lends, self.nodes[action.revision]):
                    node.keeper.release(FrameHeader(client, ledger.stream, action.sequence, 0.0, action.revision))
            else:
                head = FrameHeader(
                    client, ledger.stream, action.sequence, 0.0, action.route.revision, first=action.first
                )
                self.entry(head, ((client, ledger.stream, action.sequence),))

    def check(self, client: str, outcome: Outcome) -> None:
        assert outcome.sequence == len(self.taken[client])
        self.taken[client].append(outcome.sequence)
        self.ledgers[client].taken()
        if outcome.reason:
            assert outcome.reason in ("stream-reset", "stream-busy", "gave-up")
            self.since[client] = outcome.sequence + 1
            return
        stream = self.ledgers[client].stream
        met = tuple(((client, stream, number),) for number in range(self.since[client], outcome.sequence + 1))
        assert self.values[int(outcome.tensors[8][0, 0])] == self.one_device(met)
        self.right += 1

    def one_device(self, met: tuple[Word, ...]) -> tuple[Word, ...]:
        """What the slices give together that have met these frames."""
        return tuple(met[: n + 1] for n in range(len(met)))

    def made(self) -> list[Node]:
        """The slices of a revision, at the start."""
        return [Node(depth == 0) for depth in range(self.SLICES)]

    def entry(self, head: FrameHeader, came: tuple[Word, ...]) -> None:
        """A client sends a frame to those that take it."""
        self.wire.append((head, 0, came))

    def hand_on(self, head: FrameHeader, depth: int, answer: tuple[Word, ...]) -> None:
        """A slice sends what it made to the next one, or to the client."""
        if depth + 1 < self.SLICES:
            self.wire.append((head, depth + 1, answer))
        elif head.client in self.ledgers:
            self.values.append(answer)
            self.back.append((head, len(self.values) - 1))

    def publish(self) -> None:
        self.counter += 1
        for client, ledger in self.ledgers.items():
            paper = document(self.counter, *self.routes, window=1, stateful=True)
            self.apply(client, ledger.document(self.now, paper))

    def restart_client(self, client: str) -> None:
        self.lives += 1
        self.ledgers[client] = Ledger(client, self.lives, resend_after=1.0, give_up_after=8.0)
        self.taken[client], self.since[client] = [], 0
        self.ledgers[client].connected(self.now)
        self.publish()

    # ---- what may happen

    @rule(client=st.sampled_from(["ann", "bob"]))
    def submit(self, client: str) -> None:
        ledger = self.ledgers[client]
        if ledger.room:
            self.apply(client, ledger.submit(self.now, {0: "x"}, SPEC)[1])

    @rule(data=st.data(), keep=st.booleans())
    @precondition(lambda self: self.wire)
    def arrive(self, data: st.DataObject, keep: bool) -> None:
        place = data.draw(st.integers(0, len(self.wire) - 1))
        self.arrived(*(self.wire[place] if keep else self.wire.pop(place)))

    def arrived(self, head: FrameHeader, depth: int, came: tuple[Word, ...]) -> None:
        answer = self.nodes[head.revision][depth].take(head, came, self.now)
        if isinstance(answer, Refusal):
            self.back.append((replace(head, error=answer.reason, message=answer.message), 0))
        elif answer is not None:
            self.hand_on(head, depth, answer)

    @rule(data=st.data(), keep=st.booleans())
    @precondition(lambda self: self.back)
    def result(self, data: st.DataObject, keep: bool) -> None:
        place = data.draw(st.integers(0, len(self.back) - 1))
        self.came_back(*(self.back[place] if keep else self.back.pop(place)))

    @rule(client=st.sampled_from(["ann", "bob"]), frames=st.integers(1, 3), lose=st.booleans())
    def flow(self, client: str, frames: int, lose: bool) -> None:
        """Some frames go through as they should, overtaking what is under way; the last result may be lost."""
        under_way, self.wire = self.wire, []
        late, self.back = self.back, []
        self.flow_of(client, frames, lose)
        self.wire, self.back = under_way + self.wire, late + self.back

    def flow_of(self, client: str, frames: int, lose: bool = False) -> None:
        for number in range(frames):
            self.submit(client)
            while self.wire:
                self.arrived(*self.wire.pop())
            while self.back and not (lose and number == frames - 1):
                self.came_back(*self.back.pop())

    def came_back(self, head: FrameHeader, value: int) -> None:
        ledger = self.ledgers[head.client]
        named = header(head.sequence, head.revision, error=head.error, client=head.client, stream=head.stream)
        values: dict[int, Any] = {} if head.error else tensors(value)
        self.apply(head.client, ledger.result(self.now, named, values))

    @rule(data=st.data())
    @precondition(lambda self: self.wire)
    def lose(self, data: st.DataObject) -> None:
        self.wire.pop(data.draw(st.integers(0, len(self.wire) - 1)))

    @rule(data=st.data())
    def restart_slice(self, data: st.DataObject) -> None:
        """Under the same revision: nothing but the slice's own emptiness tells."""
        depth = data.draw(st.integers(0, self.SLICES - 1))
        revision = data.draw(st.sampled_from(sorted(self.nodes)))
        self.nodes[revision][depth] = self.made()[depth]

    @rule(state=st.sampled_from(["draining", "lost"]))
    @precondition(lambda self: len(self.routes) < 4)
    def new_revision(self, state: RouteStateWord) -> None:
        self.routes = [route(old.revision, state if old.state == "active" else old.state) for old in self.routes]
        revision = f"{len(self.routes) + 1}-aaaaaaaa"
        self.routes.append(route(revision))
        self.nodes[revision] = self.made()
        self.publish()

    @rule(client=st.sampled_from(["ann", "bob"]), clean=st.booleans())
    def client_again(self, client: str, clean: bool) -> None:
        if clean:
            for action in self.ledgers[client].close(self.now):
                if isinstance(action, Release):
                    self.apply(client, [action])
        self.restart_client(client)

    @rule(sequence=st.integers(0, 9))
    def probe(self, sequence: int) -> None:
        revision = self.routes[-1].revision
        self.entry(FrameHeader("coordinator", 0, sequence, 0.0, revision, probe=True), (("probe",),))

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for client, ledger in self.ledgers.items():
            self.apply(client, ledger.tick(self.now))

    @invariant()
    def every_frame_ends_once_and_in_order(self) -> None:
        for client, ledger in self.ledgers.items():
            assert self.taken[client] == list(range(len(self.taken[client])))
            assert ledger.counters.submitted == len(self.taken[client]) + ledger.unanswered
            assert ledger.unanswered <= 1

    def teardown(self) -> None:
        """Once all is quiet, a client that asks is served at the latest after one reset."""
        if not self.ledgers:
            return
        self.now += LEASE_SECONDS + 1
        self.wire.clear()
        self.back.clear()
        ledger, before = self.ledgers["ann"], self.right
        self.apply("ann", ledger.connected(self.now))
        self.apply("ann", ledger.tick(self.now))
        for _ in range(2):
            self.flow_of("ann", 1)
        assert self.right > before


class Diamond(Path):
    """Two slices side by side that both lend, and a third one that joins what they make."""

    SLICES = 3

    def __init__(self) -> None:
        super().__init__()
        self.halves: dict[tuple[str, tuple[str, int, int]], dict[int, tuple[Word, ...]]] = {}

    def made(self) -> list[Node]:
        return [Node(depth < 2) for depth in range(self.SLICES)]

    def one_device(self, met: tuple[Word, ...]) -> tuple[Word, ...]:
        return tuple((met[: n + 1], met[: n + 1]) for n in range(len(met)))

    def entry(self, head: FrameHeader, came: tuple[Word, ...]) -> None:
        self.wire += [(head, 0, came), (head, 1, came)]

    def hand_on(self, head: FrameHeader, depth: int, answer: tuple[Word, ...]) -> None:
        if depth == 2:
            super().hand_on(head, depth, answer)
            return
        half = self.halves.setdefault((head.revision, head.key), {})
        half[depth] = answer
        if len(half) == 2:
            del self.halves[head.revision, head.key]
            self.wire.append((head, 2, (half[0], half[1])))


Path.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
Diamond.TestCase.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
TestPath = Path.TestCase
TestDiamond = Diamond.TestCase
