"""The line of an ingress: rule 25 as a table, and against a broker that does what MQTT allows."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.line import (
    MOST_OTHERS,
    MOST_TRIES,
    POLICIES,
    Acknowledge,
    Action,
    Answer,
    Failure,
    Limits,
    Line,
    Policy,
    Publish,
    Reconnect,
)


def new_line(policy: Policy = "block", messages: int = 3, nbytes: int = 100, most: int = 50) -> Line:
    line = Line(Limits(messages, nbytes, most, policy))
    assert line.connected(1, False) == []
    return line


def arrive(
    line: Line, packet_id: int, payload: bytes = b"x", *, life: int = 1, again: bool = False
) -> list[Action]:
    digest = hashlib.sha256(payload).hexdigest()
    return line.arrived(life, 0.0, "cam", payload, digest, packet_id, again)


def work(line: Line) -> int:
    found = line.take()
    assert found is not None
    return found.key


def answer(line: Line, key: int, payload: bytes = b"r") -> list[Action]:
    return line.ended(key, Answer("out", payload))


def published(actions: list[Action]) -> list[int]:
    return [one.key for one in actions if isinstance(one, Publish)]


def acknowledged(actions: list[Action]) -> list[int]:
    return [one.packet_id for one in actions if isinstance(one, Acknowledge)]


def words(actions: list[Action]) -> list[str]:
    return [one.outcome.word for one in actions if isinstance(one, Publish) and isinstance(one.outcome, Failure)]


def test_rule_25_acknowledged_only_after_the_result_was_confirmed() -> None:
    line = new_line()
    assert arrive(line, 7) == []
    key = work(line)
    actions = answer(line, key)
    assert published(actions) == [key]
    assert acknowledged(actions) == []
    assert acknowledged(line.confirmed(1, key)) == [7]
    assert (line.held, line.nbytes) == (0, 0)


def test_rule_25_results_and_acknowledgements_keep_the_order_of_arrival() -> None:
    line = new_line()
    for number in (1, 2, 3):
        arrive(line, number)
    first, second, third = (work(line) for _ in range(3))
    assert published(answer(line, third)) == []
    assert published(answer(line, second)) == []
    assert published(answer(line, first)) == [first, second, third]
    assert acknowledged(line.confirmed(1, third)) == []
    assert acknowledged(line.confirmed(1, first)) == [1]
    assert acknowledged(line.confirmed(1, second)) == [2, 3]


def test_qos_0_is_answered_and_needs_no_acknowledgement() -> None:
    line = new_line()
    arrive(line, 0)
    key = work(line)
    assert published(answer(line, key)) == [key]
    assert line.confirmed(1, key) == []
    assert line.held == 0


def test_a_message_that_is_too_large_is_refused_in_its_turn() -> None:
    line = new_line()
    arrive(line, 1)
    key = work(line)
    assert arrive(line, 2, b"y" * 51) == []
    assert line.nbytes == 1
    actions = answer(line, key)
    assert words(actions) == ["too-large"]
    assert published(actions) == [0, 1]


def test_drop_oldest_answers_the_oldest_as_dropped() -> None:
    line = new_line("drop-oldest", messages=2)
    busy = [arrive(line, number) for number in (1, 2)]
    assert busy == [[], []]
    actions = arrive(line, 3)
    assert words(actions) == ["dropped"]
    assert published(actions) == [0]
    assert (line.waiting, line.counters["dropped"]) == (2, 1)
    assert acknowledged(line.confirmed(1, 0)) == [1]


def test_drop_newest_answers_the_newest_as_dropped() -> None:
    line = new_line("drop-newest", messages=1)
    arrive(line, 1)
    assert arrive(line, 2) == []
    key = work(line)
    assert words(answer(line, key)) == ["dropped"]
    assert line.counters["dropped"] == 1


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest"])
def test_bytes_bound_the_line_too(policy: Policy) -> None:
    line = new_line(policy, messages=100, nbytes=100, most=60)
    arrive(line, 1, b"a" * 60)
    arrive(line, 2, b"b" * 60)
    assert line.nbytes <= 60 + 2
    assert line.counters["dropped"] == 1


def test_block_leaves_with_the_broker_what_has_no_room_and_asks_for_it_again() -> None:
    line = new_line("block", messages=1)
    arrive(line, 1)
    assert arrive(line, 2, b"second") == []
    assert arrive(line, 3, b"third") == []
    assert (line.counters["left"], line.held) == (2, 1)
    key = work(line)
    answer(line, key)
    assert line.confirmed(1, key) == [Acknowledge(1, 1), Reconnect(1)]
    line.lost(1)
    line.connected(2, True)
    assert arrive(line, 2, b"second", life=2, again=True) == []
    assert line.waiting == 1


def test_block_drops_what_the_broker_has_only_once() -> None:
    line = new_line("block", messages=1)
    arrive(line, 0)
    arrive(line, 0)
    assert (line.waiting, line.counters["dropped"], line.counters["left"]) == (1, 1, 0)


def test_what_is_held_is_bounded_even_while_nothing_moves() -> None:
    line = new_line("drop-newest", messages=1)
    for _ in range(MOST_OTHERS + 500):
        arrive(line, 0)
    assert line.held <= 1 + MOST_OTHERS
    assert line.counters["unanswered"] > 0


def test_rule_25_a_message_sent_again_is_not_run_again_and_is_acknowledged_on_the_new_connection() -> None:
    line = new_line()
    arrive(line, 5, b"one")
    key = work(line)
    assert line.lost(1) == []
    assert line.connected(2, True) == []
    assert arrive(line, 5, b"one", life=2, again=True) == []
    assert line.take() is None
    assert published(answer(line, key)) == [key]
    assert line.confirmed(2, key) == [Acknowledge(2, 5)]
    assert line.counters["rejoined"] == 1


def test_a_message_that_is_done_before_it_comes_again_is_acknowledged_at_once() -> None:
    line = new_line()
    arrive(line, 5, b"one")
    arrive(line, 6, b"two")
    first, second = work(line), work(line)
    answer(line, first)
    answer(line, second)
    line.confirmed(1, second)
    line.lost(1)
    assert published(line.connected(2, True)) == [first]
    assert acknowledged(line.confirmed(2, first)) == []
    assert arrive(line, 5, b"one", life=2, again=True) == [Acknowledge(2, 5)]
    assert arrive(line, 6, b"two", life=2, again=True) == [Acknowledge(2, 6)]


def test_another_message_under_the_same_number_is_a_message_of_its_own() -> None:
    line = new_line()
    arrive(line, 5, b"one")
    line.lost(1)
    line.connected(2, True)
    arrive(line, 5, b"other", life=2, again=True)
    assert line.waiting == 2


def test_the_first_new_message_ends_the_repeats() -> None:
    line = new_line()
    arrive(line, 5, b"one")
    line.lost(1)
    line.connected(2, True)
    arrive(line, 6, b"two", life=2)
    assert line.counters["forgotten"] == 1
    arrive(line, 5, b"one", life=2, again=True)
    assert line.waiting == 3


def test_a_forgotten_session_leaves_nothing_to_acknowledge() -> None:
    line = new_line()
    arrive(line, 5)
    line.lost(1)
    line.connected(2, False)
    key = work(line)
    answer(line, key)
    assert line.confirmed(2, key) == []
    assert line.counters["forgotten"] == 1


def test_what_was_not_confirmed_is_published_again() -> None:
    line = new_line()
    arrive(line, 5)
    key = work(line)
    answer(line, key)
    line.lost(1)
    assert published(line.connected(2, True)) == [key]
    assert line.confirmed(1, key) == []
    assert line.counters["republished"] == 1


def test_a_repeat_on_the_same_connection_is_no_message() -> None:
    line = new_line()
    arrive(line, 5)
    assert arrive(line, 5, again=True) == []
    key = work(line)
    assert line.take() is None
    answer(line, key)
    assert acknowledged(line.confirmed(1, key)) == [5]


def test_retry_keeps_the_place_and_ends() -> None:
    line = new_line()
    arrive(line, 1)
    arrive(line, 2)
    first = work(line)
    second = work(line)
    assert published(answer(line, second)) == []
    for _ in range(MOST_TRIES - 1):
        assert line.retry(first, Failure("spec-changed", "")) == []
        assert work(line) == first
    actions = line.retry(first, Failure("spec-changed", ""))
    assert published(actions) == [first, second]
    assert words(actions) == ["spec-changed"]


def test_what_is_ignored_is_acknowledged_in_its_turn() -> None:
    line = new_line()
    arrive(line, 1)
    assert line.ignored(1, 2) == []
    key = work(line)
    answer(line, key)
    assert acknowledged(line.confirmed(1, key)) == [1, 2]


def test_events_of_an_earlier_connection_do_nothing() -> None:
    line = new_line()
    line.lost(1)
    line.connected(2, True)
    assert arrive(line, 1, life=1) == []
    assert line.lost(1) == []
    assert line.ignored(1, 4) == []
    assert line.held == 0


@dataclass
class _Sent:
    number: int
    payload: bytes
    qos: int
    packet_id: int = 0
    again: bool = False


class Broker:
    """A session as MQTT 3.1.1 keeps it: in order, `window` unacknowledged at once, sent again after a loss."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.queue: deque[_Sent] = deque()
        self.inflight: deque[_Sent] = deque()
        self.life = 1
        self.ids = 0
        self.arrivals: deque[int] = deque()

    def next(self) -> _Sent | None:
        if not self.queue or len(self.inflight) >= self.window:
            return None
        sent = self.queue.popleft()
        if sent.qos:
            self.ids = self.ids % 6 + 1
            while any(one.packet_id == self.ids for one in self.inflight):
                self.ids = self.ids % 6 + 1
            sent.packet_id = self.ids
            self.inflight.append(sent)
            self.arrivals.append(sent.packet_id)
        return sent

    def acknowledged(self, packet_id: int) -> int:
        assert self.arrivals.popleft() == packet_id, "acknowledged out of the order of arrival"
        sent = self.inflight.popleft()
        assert sent.packet_id == packet_id
        return sent.number

    def reconnect(self) -> list[_Sent]:
        self.life += 1
        self.arrivals = deque(one.packet_id for one in self.inflight)
        for one in self.inflight:
            one.again = True
        return list(self.inflight)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_rule_25_every_message_ends_once_per_arrival_in_order_and_bounded(data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from(POLICIES))
    limits = Limits(data.draw(st.integers(1, 4)), 40, 20, policy)
    line = Line(limits)
    broker = Broker(data.draw(st.integers(1, 5)))
    line.connected(1, False)
    working: list[int] = []
    on_wire: deque[tuple[int, int]] = deque()  # published, not yet at the broker: (life, key)
    in_flight: list[_Sent] = []
    answers: Counter[str] = Counter()
    acked: set[int] = set()
    out_of: dict[int, str] = {}
    made = reconnects = peak = 0
    last_published: dict[int, int] = {}

    def perform(actions: list[Action]) -> None:
        nonlocal reconnects
        for action in actions:
            if isinstance(action, Publish):
                assert action.life == broker.life
                # Results leave in the order of arrival on each connection.
                assert action.key > last_published.get(broker.life, -1)
                last_published[broker.life] = action.key
                out_of[action.key] = action.digest
                on_wire.append((action.life, action.key))
            elif isinstance(action, Acknowledge):
                assert action.life == broker.life
                number = broker.acknowledged(action.packet_id)
                digest = hashlib.sha256(str(number).encode()).hexdigest()
                assert answers[digest] >= 1, "acknowledged before its result was published"
                acked.add(number)
            else:
                reconnects += 1
                cut()

    def cut() -> None:
        on_wire.clear()
        line.lost(broker.life)
        in_flight[:] = broker.reconnect()
        perform(line.connected(broker.life, True))

    def deliver(sent: _Sent) -> None:
        digest = hashlib.sha256(str(sent.number).encode()).hexdigest()
        payload = sent.payload
        perform(line.arrived(broker.life, 0.0, "cam", payload, digest, sent.packet_id, sent.again))

    def step(kind: str) -> None:
        nonlocal made, peak
        if kind == "device":
            payload = b"p" * data.draw(st.sampled_from([1, 8, 20, 30]))
            broker.queue.append(_Sent(made, payload, data.draw(st.sampled_from([0, 1, 1]))))
            made += 1
        elif kind == "deliver":
            sent = in_flight.pop(0) if in_flight else broker.next()
            if sent is not None:
                deliver(sent)
        elif kind == "take":
            found = line.take()
            if found is not None:
                working.append(found.key)
                peak = max(peak, len(working))
        elif kind == "answer" and working:
            key = working.pop(data.draw(st.integers(0, len(working) - 1)))
            perform(line.ended(key, Answer("out", b"r")))
        elif kind == "retry" and working:
            key = working.pop(0)
            perform(line.retry(key, Failure("spec-changed", "")))
        elif kind == "confirm" and on_wire:
            life, key = on_wire.popleft()
            answers[out_of[key]] += 1
            perform(line.confirmed(life, key))
        elif kind == "cut":
            cut()
        # Those that were worked on and come back have a place of their own.
        assert line.waiting <= limits.messages + peak
        assert line.nbytes <= limits.nbytes + line.held
        assert line.held <= limits.messages + MOST_OTHERS

    for kind in data.draw(
        st.lists(
            st.sampled_from(
                ["device", "device", "deliver", "deliver", "take", "answer", "retry", "confirm", "cut"]
            ),
            max_size=60,
        )
    ):
        step(kind)
    # Then everything that is there comes to its end.
    for _ in range(2000):
        for kind in ("deliver", "take", "answer", "confirm"):
            step(kind)
        if not (broker.queue or broker.inflight or in_flight or line.held or on_wire or working):
            break
    assert not broker.inflight
    assert not broker.queue
    assert (line.held, line.waiting, line.nbytes) == (0, 0, 0)
    assert line.counters["arrived"] - line.counters["left"] - line.counters["rejoined"] == sum(
        line.counters[name] for name in ("answered", "failed", "dropped", "too_large")
    ), dict(line.counters)
