"""Events: what is done when, by tables; what came of it, by hand; the script, on a cluster of paper."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from emulator.events import Script, describe
from emulator.figures import Answer
from emulator.scenario import Board, Event, NodeType
from emulator.timeline import Action, Happened, actions, consequences, regular_cuts
from slicemq.errors import SliceMQError


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Event(1.0, "kill", "a"), [(1.0, "kill", False)]),
        (Event(1.0, "kill", "a", lasts=2.0), [(1.0, "kill", False), (3.0, "start", True)]),
        (Event(1.0, "stop", "a", lasts=0.5), [(1.0, "stop", False), (1.5, "start", True)]),
        (Event(2.0, "freeze", "a", lasts=4.0), [(2.0, "freeze", False), (6.0, "thaw", True)]),
        (Event(2.0, "freeze", "a"), [(2.0, "freeze", False)]),
        (Event(0.0, "link-down", "a", lasts=1.0), [(0.0, "link-down", False), (1.0, "link-up", True)]),
        (Event(0.0, "cut", "a", lasts=1.0), [(0.0, "cut", False)]),
        (Event(5.0, "rate", "a", up=1e6), [(5.0, "rate", False)]),
        (Event(5.0, "broker-restart"), [(5.0, "broker-kill", False), (5.0, "broker-start", True)]),
        (
            Event(5.0, "coordinator-restart", lasts=3.0),
            [(5.0, "coordinator-kill", False), (8.0, "coordinator-start", True)],
        ),
        (Event(5.0, "coordinator-kill"), [(5.0, "coordinator-kill", False)]),
        (Event(7.0, "join", "a"), [(7.0, "join", False)]),
    ],
)
def test_what_an_event_does(event: Event, expected: list[tuple[float, str, bool]]) -> None:
    assert [(action.at, action.do, action.undo) for action in actions([event])] == expected


def test_actions_are_in_order_of_time() -> None:
    events = [Event(3.0, "thaw", "b"), Event(1.0, "kill", "a", lasts=2.0), Event(3.0, "start", "c")]
    assert [(a.at, a.do, a.event.node) for a in actions(events)] == [
        (1.0, "kill", "a"),
        (3.0, "thaw", "b"),
        (3.0, "start", "a"),
        (3.0, "start", "c"),
    ]


def test_boards_with_regular_cuts_have_them_up_to_the_end() -> None:
    boards = [
        Board("a", NodeType(cut_every=4.0, cut_lasts=0.5), None, None),
        Board("b", NodeType(), None, None),
    ]
    assert regular_cuts(boards, 10.0) == [Event(4.0, "cut", "a", 0.5), Event(8.0, "cut", "a", 0.5)]


def _answers(*moments: tuple[float, str]) -> list[Answer]:
    return [Answer(0, n, at - 0.1, at, 0.1, revision, 1) for n, (at, revision) in enumerate(moments)]


def _happened(at: float, do: str = "kill", undo: bool = False) -> Happened:
    return Happened(Action(at, do, Event(at, "kill", "a"), undo), at, at + 0.01)


def test_recovery_is_the_first_result_of_another_revision() -> None:
    answers = _answers((1.0, "r1"), (2.0, "r1"), (2.3, "r1"), (4.0, "r2"), (4.5, "r2"), (5.0, "r3"))
    (found,) = consequences([_happened(2.1)], answers, 6.0)
    assert (found.old_revision, found.new_revision) == ("r1", "r2")
    assert found.recovery == pytest.approx(1.9)
    assert found.stall == pytest.approx(1.7)


def test_each_event_has_its_own_consequences_and_undoing_does_not_hide_them() -> None:
    answers = _answers((1.0, "r1"), (3.0, "r2"), (3.5, "r2"), (6.0, "r3"))
    kill, start, again = consequences([_happened(5.0), _happened(2.0), _happened(2.5, "start", True)], answers, 8.0)
    assert kill.recovery == pytest.approx(1.0)
    assert start.recovery == pytest.approx(0.5)
    assert again.recovery == pytest.approx(1.0)
    assert kill.new_revision == "r2"
    assert again.new_revision == "r3"
    assert again.stall == pytest.approx(2.0)


def test_no_other_revision_is_no_recovery_and_silence_is_a_stall() -> None:
    (found,) = consequences([_happened(2.0)], _answers((1.0, "r1"), (2.5, "r1")), 9.0)
    assert found.recovery is None
    assert found.new_revision == ""
    assert found.stall == pytest.approx(6.5)


def test_failed_frames_are_no_results() -> None:
    failed = Answer(0, 1, 2.0, 2.5, 0.5, "", 1, error="gave-up")
    (found,) = consequences([_happened(2.0)], [*_answers((1.0, "r1")), failed], 4.0)
    assert found.recovery is None
    assert found.stall == pytest.approx(2.0)


class Paper:
    """Notes what is asked; `refuses` are the methods that fail."""

    def __init__(self, *refuses: str, relay: bool = True, name: str = "") -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.refuses, self.name = refuses, name
        if not name:
            self.broker = self._part("broker")
            self.nodes = {"a": self._part("a")}
            self.nodes["a"].relay = self._part("relay") if relay else None

    def _part(self, name: str) -> Any:
        part = Paper(*self.refuses, name=f"{name}.")
        part.asked = self.asked
        return part

    def __getattr__(self, method: str) -> Any:
        def note(*arguments: Any, **more: Any) -> None:
            self.asked.append((self.name + method, *arguments, *more.items()))
            if method in self.refuses:
                raise SliceMQError("not here")

        return note


EVENTS = [
    Event(0.0, "kill", "a", lasts=0.0),
    Event(0.0, "stop", "a"),
    Event(0.0, "freeze", "a", lasts=0.0),
    Event(0.0, "link-down", "a", lasts=0.0),
    Event(0.0, "rate", "a", up=1e7),
    Event(0.0, "delay", "a", delay=0.02, jitter=0.01),
    Event(0.0, "cut", "a", lasts=2.0, how="freeze"),
    Event(0.0, "cpu", "a", cpu=0.2),
    Event(0.0, "memory", "a", memory=10**8),
    Event(0.0, "broker-restart"),
    Event(0.0, "coordinator-restart"),
    Event(0.0, "coordinator-start"),
    Event(0.0, "join", "b"),
]


def test_a_script_asks_the_cluster_for_each_action_in_order() -> None:
    paper, deployed = Paper(), threading.Event()
    todo = actions([*EVENTS, Event(0.0, "deploy", pipeline="faces", model="x.tflite")])
    with Script(paper, todo, lambda action: deployed.set()) as script:
        script.begin(0.0)
        script.wait()
    assert paper.asked == [
        ("kill_node", "a"),
        ("start_node", "a"),
        ("stop_node", "a"),
        ("freeze_node", "a"),
        ("thaw_node", "a"),
        ("link_down", "a"),
        ("link_up", "a"),
        ("set_link", "a", ("up", 1e7), ("down", None)),
        ("relay.delay", 0.02, 0.01),
        ("relay.freeze", 2.0),
        ("set_limits", "a", ("cpu", 0.2)),
        ("set_limits", "a", ("memory", 10**8)),
        ("broker.kill",),
        ("broker.start",),
        ("kill_coordinator",),
        ("start_coordinator",),
        ("start_coordinator",),
        ("start_node", "b"),
    ]
    assert deployed.is_set()
    assert len(script.happened) == len(todo)
    assert all(one.began <= one.ended and not one.error for one in script.happened)


def test_what_fails_is_noted_and_the_rest_goes_on() -> None:
    told: list[str] = []
    paper = Paper("link_down")
    todo = actions([Event(0.0, "link-down", "a"), Event(0.0, "kill", "a")])
    with Script(paper, todo, lambda action: None, told.append) as script:
        script.begin(0.0)
        script.wait()
    assert [one.error for one in script.happened] == ["not here", ""]
    assert told[0].endswith("link-down a failed: not here")


def test_a_cut_takes_a_relay() -> None:
    todo = actions([Event(0.0, "cut", "a")])
    with Script(Paper(relay=False), todo, lambda action: None) as script:
        script.begin(0.0)
        script.wait()
    assert [one.error for one in script.happened] == ["node a: no relay is on its link"]


def test_leaving_it_stops_what_has_not_begun() -> None:
    paper = Paper()
    with Script(paper, actions([Event(86_400.0, "kill", "a")]), lambda action: None) as script:
        script.begin(1e9)
    assert paper.asked == []
    assert script.happened == []


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event(0.0, "rate", "a", up=1e7, down=5e5), "rate a up 10 Mbit/s down 0.5 Mbit/s"),
        (Event(0.0, "delay", "a", delay=0.02), "delay a 20 ms"),
        (Event(0.0, "cut", "a", lasts=2.0), "cut a reset 2 s"),
        (Event(0.0, "cpu", "a", cpu=0.2), "cpu a 0.2"),
        (Event(0.0, "memory", "a", memory=10**8), "memory a 100 MB"),
        (Event(0.0, "undeploy", pipeline="faces"), "undeploy faces"),
    ],
)
def test_actions_in_words(event: Event, text: str) -> None:
    assert describe(actions([event])[0]) == text
