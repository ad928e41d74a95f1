"""What a node runs when it starts and nobody says what: its last assignment (rules 15 and 21)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge_node.committed import PATIENCE, Committed
from emulator.brokers import Mosquitto
from slicemq.messages import Assignment, Stamp, encode
from tests.edge_node.cluster import Coordinator, random_frames, running_node, slice_assignment
from tests.edge_node.test_service import JOIN, READY
from tests.waiting import eventually


def assignment(counter: int = 1, term: int = 1, node: str = "n1") -> Assignment:
    return Assignment(node, Stamp(term, "aa", counter), (slice_assignment(),))


def again(folder: Path, node: str = "n1", cluster: str = "lab") -> Committed:
    """The next life of the node."""
    return Committed(folder, cluster, node)


def test_the_last_assignment_is_there_in_the_next_life_when_none_comes(tmp_path: Path) -> None:
    first = again(tmp_path)
    first.joined(0.0)
    assert first.due(PATIENCE) is None
    first.received(assignment(1))
    first.received(assignment(2))
    first.received(assignment(1))
    second = again(tmp_path)
    assert second.due(1000.0) is None, "not before it has joined"
    second.joined(1000.0)
    assert second.due(1000.0 + PATIENCE / 2) is None
    assert second.due(1000.0 + PATIENCE) == assignment(2)
    assert second.due(1000.0 + 2 * PATIENCE) is None, "once"


def test_rule_21_what_a_coordinator_says_takes_its_place(tmp_path: Path) -> None:
    """Also with a lower term: the coordinator's store was lost, and nobody else is there."""
    again(tmp_path).received(assignment(5, term=7))
    second = again(tmp_path)
    second.joined(0.0)
    second.received(assignment(1, term=1))
    assert second.due(PATIENCE) is None
    assert again(tmp_path).kept == assignment(1, term=1)


def test_rule_15_an_empty_assignment_is_one(tmp_path: Path) -> None:
    first = again(tmp_path)
    first.received(assignment(1))
    ended = Assignment("n1", Stamp(1, "aa", 2), ())
    first.received(ended)
    assert again(tmp_path).kept == ended


@pytest.mark.parametrize("content", [b"", b"{", b"[]", encode(assignment(node="n2")), b"x" * 5_000_000])
def test_a_file_that_is_damaged_or_anothers_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "assignment-lab.json").write_bytes(content)
    assert again(tmp_path).kept is None
    assert again(tmp_path, cluster="other").kept is None


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = again(tmp_path / "gone")
    with caplog.at_level(logging.WARNING):
        gone.received(assignment(1))
        gone.received(assignment(2))
    assert [record.message for record in caplog.records if "not kept" in record.message] == [
        f"{tmp_path}/gone/assignment-lab.json: the assignment is not kept for a restart: No such file or directory"
    ]
    assert gone.kept == assignment(2)


@pytest.mark.slow
def test_a_node_runs_its_slices_again_when_broker_and_coordinator_have_forgotten_all(
    state: Path, cluster: str
) -> None:
    """A node that starts with neither coordinator nor retained documents serves the frames that come."""
    with (
        Mosquitto() as broker,
        Coordinator(broker.options, cluster) as coordinator,
        running_node(broker.options, cluster, state),
    ):
        eventually(lambda: coordinator.state == "ready", JOIN)
        coordinator.assign(slice_assignment())
        eventually(lambda: coordinator.words() == READY, JOIN)
    with Mosquitto() as broker, Coordinator(broker.options, cluster) as clients:
        clients.artifacts.clear()
        with running_node(broker.options, cluster, state):
            (frame,) = random_frames(1)
            eventually(lambda: clients.answered(1, frame), JOIN, every=0.2)
            assert clients.words() == READY
            # Rule 21: what a coordinator says after that is obeyed.
            clients.assign(term=2)
            eventually(lambda: clients.words() == [], JOIN)
            assert clients.reason() == ""
