"""Frames that end workers, counted over nodes and revisions (protocol rule 10)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.poison import KEEP_SECONDS, Poison
from slicemq.messages import MOST_POISONED, Crash, FrameName, Report
from tests.coordinator.site import Board, Site

X, Y = FrameName("cam", "00000000000000aa", 7), FrameName("cam", "00000000000000aa", 8)


def crash(frame: FrameName | None = X, count: int = 1, pipeline: str = "faces") -> Crash:
    return Crash(pipeline, "1-00000000", "s0", frame, count, "signal SIGSEGV")


def report(node: str, *crashes: Crash, epoch: str = "1") -> Report:
    return Report(node, epoch, 1, crashes=crashes)


@pytest.mark.parametrize(
    ("reports", "poisoned"),
    [
        ([report("n1", crash())], ()),
        ([report("n1", crash(count=2))], (X,)),
        ([report("n1", crash()), report("n1", crash())], ()),
        ([report("n1", crash()), report("n1", crash(count=2))], (X,)),
        ([report("n1", crash()), report("n2", crash())], (X,)),
        ([report("n1", crash()), report("n2", crash(Y))], ()),
        ([report("n1", crash()), report("n1", crash(), epoch="2")], (X,)),
        ([report("n1", crash(None, 2))], ()),
        ([report("n1", crash(pipeline="birds", count=2))], ()),
    ],
    ids=[
        "one death",
        "two on one node",
        "one that is told again",
        "one after the other",
        "two nodes",
        "two frames",
        "two lives of a node",
        "loads",
        "another pipeline",
    ],
)
def test_two_deaths_wherever_they_are_poison_a_frame(
    reports: list[Report], poisoned: tuple[FrameName, ...]
) -> None:
    poison = Poison()
    changes = [poison.heard(0.0, one) for one in reports]
    assert poison.of("faces") == poisoned
    assert changes[-1] == (poisoned != () or poison.of("birds") != ())


def test_poisoned_frames_are_forgotten_and_a_repeat_does_not_bring_them_back() -> None:
    poison = Poison()
    told = report("n1", crash(count=2))
    assert poison.heard(0.0, told)
    assert not poison.expire(KEEP_SECONDS)
    assert poison.expire(KEEP_SECONDS + 1)
    assert poison.of("faces") == ()
    assert not poison.heard(KEEP_SECONDS + 2, told)
    assert poison.of("faces") == ()


def test_so_many_as_a_document_holds_are_kept_the_latest_ones() -> None:
    poison = Poison()
    names = [FrameName("cam", "00000000000000aa", number) for number in range(MOST_POISONED + 10)]
    for name in names:
        poison.heard(0.0, report("n1", crash(name, 2)))
    assert poison.of("faces") == tuple(names[10:])


def test_counts_are_bounded() -> None:
    poison = Poison()
    for number in range(3000):
        poison.heard(0.0, report("n1", crash(FrameName("cam", "00000000000000aa", number))))
    assert len(poison._deaths) == 1024


@pytest.fixture
def site() -> Site:
    made = Site(*(Board(name) for name in ("n1", "n2", "n3")))
    made.start()
    return made


def crashes(site: Site, name: str, slice_id: str, *frames: FrameName, state: str) -> None:
    """A board reports deaths of its slice's worker by these frames."""
    board = site.boards[name]
    for key in board.states:
        if key[2] == slice_id:
            board.states[key] = state
    (key,) = board.states
    told = tuple(Crash(*key, frame, 1, "signal SIGSEGV") for frame in frames)
    site.do(site.cluster.on_report(site.now, replace(board.report(), crashes=told)))


def test_a_frame_that_ends_workers_of_two_revisions_is_named_to_clients_and_shuns_nobody(site: Site) -> None:
    site.run("n1", "n2")
    crashes(site, "n2", "s1", X, state="fetching")
    assert site.document().poisoned == ()
    site.wait(6.0)
    assert not site.cluster.members.is_shunned("n2"), "the node is not to blame"
    site.bring_up("n1", "n3")
    crashes(site, "n3", "s1", X, state="fetching")
    assert site.document().poisoned == (X,)
    assert not site.cluster.members.is_shunned("n3")
    site.wait(KEEP_SECONDS + 1)
    assert site.document().poisoned == ()


def test_a_slice_that_is_not_ready_for_another_reason_shuns_its_node(site: Site) -> None:
    site.run("n1", "n2")
    crashes(site, "n2", "s1", state="fetching")
    site.wait(6.0)
    assert site.cluster.members.is_shunned("n2")
