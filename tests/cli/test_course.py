"""What becomes of a deployment by the documents alone, and what a drained node still holds (rules 11, 12, 15)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.cli.course import Course
from coordinator.cli.drained import Drained
from slicemq.errors import CoordinatorError, PipelineError, RequestRefusedError, RolledBackError, SupersededError
from slicemq.messages import (
    Artifact,
    Assignment,
    Bundle,
    NodeState,
    PipelineDocument,
    Report,
    Route,
    SliceAssignment,
    SliceReport,
    Stamp,
    TensorSpec,
    encode,
)
from slicemq.operations import RolloutDocument, RolloutEntry

OLD, NEW = "a" * 64, "b" * 64
SPEC = (TensorSpec(0, "x", "float32", (1, 2)),)
BUNDLE = Bundle("b0", SPEC)
STAMP = Stamp(1, "i", 1)


def route(revision: str, state: Any = "active", weight: float = 1.0) -> Route:
    return Route(revision, state, weight, (BUNDLE,), 1)


def pipeline(*routes: Route, model: str = OLD, state: Any = "running", reason: str = "") -> PipelineDocument:
    return PipelineDocument("faces", STAMP, state, reason, model, "s", SPEC, SPEC, routes)


def entry(revision: str, state: Any, model: str = NEW, begun: float | None = None, **fields: Any) -> RolloutEntry:
    when = float(revision.partition("-")[0]) if begun is None else begun
    return RolloutEntry(revision, Artifact(model, 1), state, when, **fields)


def rollouts(*history: RolloutEntry, current: RolloutEntry | None = None) -> RolloutDocument:
    return RolloutDocument("faces", STAMP, current, history)


def expecting() -> Course:
    course = Course("faces")
    course.expect("3-00000000", NEW)
    return course


def seen(course: Course, document: PipelineDocument | None, rollouts: RolloutDocument | None) -> bool:
    course.saw(rollouts)
    return course.settled(document)


def test_a_sole_active_route_of_the_revision_or_a_later_one_runs() -> None:
    course = expecting()
    assert not seen(course, None, None)
    assert not seen(course, pipeline(route("2-00000000")), None)
    assert seen(course, pipeline(route("4-00000000"), model=NEW), None)
    assert course.running == "4-00000000"


def test_a_canary_is_not_yet_running() -> None:
    course = expecting()
    both = pipeline(route("2-00000000", weight=0.9), route("3-00000000", weight=0.1))
    assert not seen(course, both, None)
    assert not seen(course, both, rollouts(current=entry("3-00000000", "canary", fraction=0.1)))
    assert course.note == "canary at 10 % of the frames"
    assert seen(course, pipeline(route("3-00000000"), model=NEW), rollouts(entry("3-00000000", "promoted")))


def test_a_route_counts_only_when_its_rollout_has_ended() -> None:
    course = expecting()
    alone = pipeline(route("3-00000000"), model=NEW)
    assert not seen(course, alone, rollouts(current=entry("3-00000000", "preparing", paused=True)))
    assert course.note == "preparing, paused"


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("rolled-back", RolledBackError, 42),
        ("superseded", SupersededError, 43),
        ("refused", RequestRefusedError, 41),
    ],
)
def test_each_bad_end_has_its_error_and_names_the_reason(state: str, kind: type[Exception], code: int) -> None:
    course = expecting()
    ended = rollouts(entry("3-00000000", state, reason="answers differ by 0.3", before="2-00000000"))
    with pytest.raises(kind, match=r"faces: revision 3-00000000 was .*: answers differ by 0.3") as caught:
        seen(course, pipeline(route("2-00000000")), ended)
    assert getattr(caught.value, "exit_code", None) == code


def test_the_model_that_came_back_under_a_higher_number_is_not_the_deployed_one() -> None:
    """Rule 13: on failure the old plan returns under a new n."""
    course = expecting()
    assert not seen(course, pipeline(route("4-00000000"), model=OLD), None)


def test_a_rollout_that_is_prepared_anew_is_known_again() -> None:
    """Rule 12: what a loss ended is planned again, under a new number, and at first under none."""
    course = Course("faces")
    course.saw(rollouts(current=entry("3-00000000", "preparing", begun=7.0)))
    course.saw(rollouts(current=entry("", "planning", begun=7.0)))
    course.expect("3-00000000", NEW)
    assert not seen(course, pipeline(), rollouts(current=entry("4-00000000", "preparing", begun=7.0)))
    assert course.note == "preparing"
    ended = rollouts(entry("", "refused", begun=1.0), entry("", "rolled-back", begun=7.0, reason="no plan for it"))
    with pytest.raises(RolledBackError, match="3-00000000 was rolled back: no plan for it"):
        seen(course, pipeline(), ended)


def test_entries_of_earlier_rollouts_say_nothing() -> None:
    course = expecting()
    assert not seen(course, None, rollouts(entry("2-00000000", "rolled-back"), entry("1-00000000", "refused")))


def test_a_pipeline_that_was_removed_before_the_request_is_waited_for() -> None:
    """Rule 15: absence, and an older life's end, mean nothing."""
    course = expecting()
    assert not seen(course, pipeline(state="removed"), None)
    assert not seen(course, pipeline(state="paused"), None)
    with pytest.raises(PipelineError, match="undeployed"):
        seen(course, pipeline(state="removed"), None)


def test_slices_that_fail_again_and_again_end_the_wait() -> None:
    course = expecting()
    for number in (3, 4):
        reason = f"{number}-00000000 was abandoned: slice s0 failed"
        assert not seen(course, pipeline(state="paused", reason=reason), None)
    with pytest.raises(CoordinatorError, match="slicemq undeploy faces"):
        seen(course, pipeline(state="paused", reason="5-00000000 was abandoned: slice s0 failed"), None)


def given(node: Drained, document: Any, leaf: str) -> None:
    node.take(leaf, f"t/{leaf}", encode(document))


def piece(name: str) -> SliceAssignment:
    return SliceAssignment("faces", "1-00000000", name, Artifact(OLD, 1), 1, (0,), (1,), (BUNDLE,))


def test_a_node_is_drained_when_neither_assignment_nor_report_has_a_slice() -> None:
    node = Drained("n1")
    held = Report("n1", "e", 1, (SliceReport("faces", "1-00000000", "s0", "ready"),), Stamp(1, "i", 5))
    given(node, Assignment("n1", Stamp(1, "i", 5), (piece("s0"),)), "assignment")
    given(node, held, "report")
    assert node.left == ["faces/s0"]
    given(node, Assignment("n1", Stamp(1, "i", 6), ()), "assignment")
    assert node.left == ["faces/s0"]
    given(node, replace(held, slices=()), "report")
    assert node.left == []
    assert not node.done, "rule 7: the report answers an older assignment"
    given(node, replace(held, slices=(), seen=Stamp(1, "i", 6)), "report")
    assert node.done


def test_an_older_assignment_changes_nothing() -> None:
    """Rule 21."""
    node = Drained("n1")
    given(node, Assignment("n1", Stamp(2, "i", 1), ()), "assignment")
    given(node, Assignment("n1", Stamp(1, "i", 9), (piece("s0"),)), "assignment")
    assert node.left == []


def test_what_a_dead_node_held_is_gone_with_it() -> None:
    node = Drained("n1")
    given(node, Report("n1", "e", 1, (SliceReport("faces", "1-00000000", "s0", "ready"),)), "report")
    given(node, NodeState("n1", "lost", "e"), "state")
    assert node.done
