"""The client with several revisions: canaries, shadows, other models' indices, poisoned frames."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slicemq.evidence import difference
from slicemq.ledger import Ledger, document_fault
from slicemq.messages import Bundle, FrameName, PipelineDocument, Route, TensorSpec
from slicemq.outcomes import Action, Send
from slicemq.shadow import MOST_COPIES, MOST_SECONDS
from tests.contract.ledger_tools import (
    OUTPUTS,
    R1,
    R2,
    R3,
    STREAM,
    document,
    ends,
    header,
    outcomes,
    route,
    running,
    sends,
    submit,
    tensors,
)

MINE = FrameName("c-1", f"{STREAM:016x}", 0)
# A model whose input is tensor 5, and whose outputs are 20 and 11.
OTHER = Route(
    R2,
    "active",
    1.0,
    (Bundle("b0", (TensorSpec(5, "image", "float32", (1, 4)),)),),
    1,
    inputs=(5,),
    outputs=(20, 11),
)


def canary(light: float = 0.25) -> tuple[Route, Route]:
    return route(R1, weight=1 - light), route(R2, weight=light)


def shadowed(weight: float = 1.0, shadow: Route | None = None, counter: int = 2) -> PipelineDocument:
    return replace(document(counter, route(R1)), shadow=replace(shadow or route(R2), weight=weight))


def with_shadow(weight: float = 1.0, **settings: Any) -> Ledger:
    ledger = running(**settings)
    ledger.document(0.0, shadowed(weight))
    return ledger


def copies(actions: list[Action]) -> list[Send]:
    return [action for action in actions if isinstance(action, Send) and action.copy]


def shadow_of(ledger: Ledger, now: float = 1.0) -> dict[str, Any]:
    body = ledger.evidence(now)
    assert body is not None
    found: dict[str, Any] = body["shadow"]
    return found


def first_at(ledger: Ledger, revision: str) -> int:
    """Submit until a frame goes to `revision`; its number."""
    for _ in range(200):
        ledger.taken()
        for sequence, where in sends(submit(ledger)):
            if where == revision:
                return sequence
    raise AssertionError("no frame went there")


def test_a_canary_takes_its_share() -> None:
    ledger = running(*canary())
    went = [where for _ in range(400) for _, where in sends(submit(ledger))]
    assert 60 < went.count(R2) < 140


def test_an_error_of_the_canary_is_no_error_of_the_frame() -> None:
    """Rule 5: the frame ends by the revision that serves; the canary's failure is only counted."""
    ledger = running(*canary())
    sequence = first_at(ledger, R2)
    assert sends(ledger.result(1.0, header(sequence, R2, error="slice-error"), {})) == [(sequence, R1)]
    body = ledger.evidence(1.0)
    assert body is not None
    assert body["figures"][R2]["failed"] == 1
    for other in range(sequence):
        ledger.result(1.5, header(other, R1), tensors())
    assert ends(ledger.result(2.0, header(sequence, R1), tensors()))[-1] == (sequence, R1)


def test_an_error_of_the_revision_that_serves_ends_the_frame() -> None:
    ledger = running(*canary())
    sequence = first_at(ledger, R1)
    for other in range(sequence):
        ledger.result(1.0, header(other, R2), tensors())
    assert ends(ledger.result(1.0, header(sequence, R1, error="slice-error"), {})) == [(sequence, "slice-error")]


def test_a_late_error_of_a_canary_that_was_lost_with_all_others_is_no_error_of_the_frame() -> None:
    """Rules 5 and 8: the frame waits for a revision to be sent to, and what a lost one says of it is over."""
    ledger = running(*canary())
    sequence = first_at(ledger, R2)
    ledger.document(1.0, document(2, route(R1, "lost"), route(R2, "lost")))
    ledger.result(1.1, header(sequence, R2, error="slice-error"), {})
    assert (sequence, R3) in sends(ledger.document(2.0, document(3, route(R3))))


def test_a_frame_that_the_canary_failed_never_goes_there_again() -> None:
    ledger = running(*canary(0.49), resend_after=1.0)
    sequence = first_at(ledger, R2)
    ledger.result(1.0, header(sequence, R2, error="slice-error"), {})
    for again in range(2, 40):
        went = dict(sends(ledger.tick(60.0 * again)))
        assert went.get(sequence, R1) == R1


def test_a_canary_that_is_taken_back_gives_its_frames_back_at_once() -> None:
    """Rule 8: its route is lost."""
    ledger = running(*canary())
    sequence = first_at(ledger, R2)
    again = sends(ledger.document(1.0, document(2, route(R1), route(R2, "lost", 0.0))))
    assert (sequence, R1) in again
    assert all(where == R1 for _, where in again)


def test_evidence_tells_the_figures_of_each_active_revision() -> None:
    ledger = running(*canary())
    assert running().evidence(0.0) is None
    old, new = first_at(ledger, R1), first_at(ledger, R2)
    ledger.result(0.2, header(old, R1), tensors())
    ledger.result(0.5, header(new, R2), tensors())
    body = ledger.evidence(1.0)
    assert body is not None
    assert body["pipeline"] == "faces"
    assert body["figures"] == {
        R1: {"answered": 1, "failed": 0, "mean_ms": 200.0, "p95_ms": 200.0},
        R2: {"answered": 1, "failed": 0, "mean_ms": 500.0, "p95_ms": 500.0},
    }
    assert "shadow" not in body


def test_a_missed_deadline_counts_as_a_failure() -> None:
    ledger = running(*canary(), resend_after=1.0)
    new = first_at(ledger, R2)
    ledger.tick(10.0)
    body = ledger.evidence(10.0)
    assert body is not None
    assert body["figures"][R2]["failed"] >= 1
    assert new >= 0


def test_a_shadow_gets_copies_and_its_answers_are_never_handed_out() -> None:
    """Rule 3: never a shadow's answer."""
    ledger = with_shadow()
    actions = submit(ledger)
    assert sends(actions) == [(0, R1), (0, R2)]
    assert [copy.route.revision for copy in copies(actions)] == [R2]
    assert ledger.result(0.3, header(0, R2), tensors(5.0)) == []
    assert ends(ledger.result(0.4, header(0, R1), tensors(4.0))) == [(0, R1)]
    found = shadow_of(ledger)
    assert (found["revision"], found["sent"], found["compared"], found["failed"]) == (R2, 1, 1, 0)
    assert found["worst"] == pytest.approx(0.25)
    assert found["p95_ms"] == pytest.approx(300.0)


def test_the_shadow_may_answer_last() -> None:
    ledger = with_shadow()
    submit(ledger)
    assert ends(ledger.result(0.1, header(0, R1), tensors(4.0))) == [(0, R1)]
    assert ledger.expects(header(0, R2)).keys() == {8, 9}
    assert ledger.result(0.2, header(0, R2), tensors(4.0)) == []
    assert shadow_of(ledger)["worst"] == 0.0
    assert ledger.expects(header(0, R2)) == {}
    ledger.result(0.3, header(0, R2), tensors(4.0))
    assert ledger.counters.doubles == 1


def test_a_shadows_error_or_silence_is_counted_and_hurts_nobody() -> None:
    ledger = with_shadow()
    submit(ledger)
    assert ledger.result(0.1, header(0, R2, error="slice-error"), {}) == []
    submit(ledger)
    assert shadow_of(ledger, MOST_SECONDS + 1)["failed"] == 2
    assert ledger.counters.failed == 0


def test_copies_on_their_way_are_bounded_and_of_a_share_of_the_frames() -> None:
    ledger = with_shadow()
    made = sum(len(copies(submit(ledger))) for _ in range(3 * MOST_COPIES))
    assert made == MOST_COPIES
    few = with_shadow(0.2)
    count = 0
    for sequence in range(400):
        count += len(copies(submit(few)))
        few.result(0.0, header(sequence, R1), tensors())
        few.result(0.0, header(sequence, R2), tensors())
    assert 40 < count < 130


def test_a_frame_that_is_sent_again_is_not_copied_again() -> None:
    ledger = with_shadow(resend_after=1.0)
    submit(ledger)
    assert copies(ledger.tick(5.0)) == []


def test_the_end_of_a_shadow_is_the_end_of_its_figures() -> None:
    ledger = with_shadow()
    copy = copies(submit(ledger))[0]
    assert ledger.wants(copy)
    ledger.document(1.0, document(3, route(R1)))
    assert ledger.evidence(1.0) is None
    assert not ledger.wants(copy)


def test_a_promoted_shadow_answers_frames_that_were_sent_to_it() -> None:
    """Rule 3: the copy was no attempt, the frame's own sending is."""
    ledger = with_shadow()
    submit(ledger)
    ledger.document(1.0, document(3, route(R1, "lost", 0.0), route(R2)))
    assert ends(ledger.result(1.5, header(0, R2), tensors())) == [(0, R2)]


def test_a_stateful_pipeline_has_no_shadow() -> None:
    """Rule 6: a copy would be a second stream."""
    ledger = running()
    ledger.document(0.0, replace(shadowed(), stateful=True))
    assert copies(submit(ledger)) == []


def test_another_models_tensors_are_matched_by_their_place() -> None:
    ledger = running()
    actions = submit(ledger)
    again = ledger.document(1.0, document(2, route(R1, "lost", 0.0), OTHER))
    (send,) = [action for action in again if isinstance(action, Send)]
    assert isinstance(actions[0], Send)
    assert send.inputs == {5: actions[0].inputs[0]}
    assert ledger.expects(header(0, R2)) == {20: OUTPUTS[0], 11: OUTPUTS[1]}
    assert ledger.result(1.2, header(0, R2), tensors()) == []
    assert ledger.counters.dropped["tensors"] == 1
    (outcome,) = outcomes(ledger.result(1.3, header(0, R2), {11: tensors()[9], 20: tensors(3.0)[8]}))
    assert list(outcome.tensors) == [8, 9]
    assert outcome.tensors[8][0, 0] == 3.0


def test_inputs_given_under_an_earlier_face_go_to_the_present_one() -> None:
    ledger = running()
    submit(ledger)
    moved = replace(
        document(2, route(R1, "lost", 0.0), replace(OTHER, inputs=(), outputs=())),
        inputs=(TensorSpec(5, "image", "float32", (1, 4)),),
        outputs=(replace(OUTPUTS[0], index=20), replace(OUTPUTS[1], index=11)),
    )
    (send,) = [action for action in ledger.document(1.0, moved) if isinstance(action, Send)]
    assert list(send.inputs) == [5]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"inputs": (5, 6)}, "inputs: 2 tensors, expected 1"),
        ({"outputs": (20,)}, "outputs: 1 tensors, expected 2"),
        ({"outputs": (20, 20)}, "outputs: one tensor stands for two"),
        ({"inputs": (7,)}, "tensor 5 is not an input"),
    ],
)
def test_a_document_with_wrong_indices_is_refused(changed: dict[str, Any], fault: str) -> None:
    wrong = replace(OTHER, **changed)
    assert fault in document_fault(document(2, wrong))
    assert fault in document_fault(replace(document(2, route(R1)), shadow=wrong))


def test_a_poisoned_frame_ends_as_poisoned_and_only_it() -> None:
    """Rule 10."""
    ledger = running()
    submit(ledger)
    submit(ledger)
    strangers = (replace(MINE, client="c-2"), replace(MINE, stream="0" * 16), replace(MINE, sequence=99))
    assert ledger.document(1.0, replace(document(2, route(R1)), poisoned=strangers)) == []
    assert ends(ledger.document(1.0, replace(document(3, route(R1)), poisoned=(*strangers, MINE)))) == [
        (0, "poisoned")
    ]
    assert ends(ledger.result(1.1, header(1, R1), tensors())) == [(1, R1)]


def test_a_poisoned_frame_is_not_sent_with_the_document_that_says_so() -> None:
    """Rule 10: nor when the same document asks to send again."""
    ledger = running()
    submit(ledger)
    said = replace(document(2, route(R1), resend=1), poisoned=(MINE,))
    assert sends(ledger.document(1.0, said)) == []


ONE = (np.array([4.0, -8.0], np.float32), np.array([3], np.int8))


@pytest.mark.parametrize(
    ("one", "other", "off"),
    [
        (ONE, ONE, 0.0),
        (ONE, (np.array([4.0, -6.0], np.float32), ONE[1]), 0.25),
        ([np.zeros(2)], [np.array([0.0, 1e-9])], 1.0),
        ([np.zeros(2)], [np.array([0.0, np.nan])], math.inf),
        ([np.array([np.nan])], [np.array([np.nan])], 0.0),
        ([np.zeros(2)], [np.zeros(3)], math.inf),
        ([np.array([True])], [np.array([False])], 1.0),
        ([np.zeros((0, 4))], [np.zeros((0, 4))], 0.0),
    ],
)
def test_difference(one: Any, other: Any, off: float) -> None:
    assert difference(dict(enumerate(one)), dict(enumerate(other))) == pytest.approx(off)
