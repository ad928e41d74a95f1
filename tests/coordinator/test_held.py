"""What waits while nothing may be written (rules 22 and 24)."""

from __future__ import annotations

from coordinator.actions import Clear, Listen, Persist, Publish, Respond, StopProbe
from coordinator.held import Held, merged
from slicemq.messages import Response


def test_rule_24_of_what_waits_the_latest_of_a_topic_stays_behind_the_storing() -> None:
    stop = StopProbe("faces", "1-0123abcd")
    answers = [Respond("cli", Response(name)) for name in ("t1", "t2", "t1")]
    found = merged(
        [
            *(Persist(), Publish("a", 1), Publish("b", 1), answers[0], Listen(), Persist(), Publish("a", 2), stop),
            *(answers[1], Clear("b"), Persist(), answers[2], Publish("c", 1), stop, Listen()),
        ]
    )
    assert found == [
        *(Persist(), Publish("a", 2), stop, answers[1], Clear("b"), answers[2], Publish("c", 1), stop, Listen())
    ]


def test_what_waits_does_not_grow_with_time() -> None:
    """Assignments that no report answers go out again each second; with a full disk they wait."""
    held = Held()
    for second in range(100_000):
        held.add([Persist(), Publish(f"node-{second % 50}", second), Listen()])
        assert len(held) <= 1003
    assert isinstance(held.first, Persist)
    latest: dict[str, int] = {}
    while len(held):
        if isinstance(held.first, Publish):
            latest[held.first.topic] = held.first.document
        held.done()
    assert sorted(latest.values()) == list(range(99_950, 100_000))
