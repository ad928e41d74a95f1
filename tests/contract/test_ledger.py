"""The ledger: what each event does to the frames (protocol rules 2-5, 8, 9, 21)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slicemq.frames import FrameHeader
from slicemq.ledger import Ledger
from slicemq.messages import Bundle, Lane, TensorSpec
from slicemq.outcomes import Send
from slicemq.specs import spec_digest
from tests.contract.ledger_tools import (
    OUTPUTS,
    R1,
    R2,
    R3,
    SPEC,
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
    turning,
)

OTHER = (TensorSpec(8, "boxes", "float32", (1, 5)),)


def test_results_are_delivered_in_the_order_of_submission_and_carry_their_tensors() -> None:
    ledger = running()
    assert [sends(submit(ledger, float(n))) for n in range(3)] == [[(0, R1)], [(1, R1)], [(2, R1)]]
    assert ledger.result(3, header(2, R1), tensors(2)) == []
    assert ledger.result(4, header(1, R1), tensors(1)) == []
    found = outcomes(ledger.result(5, header(0, R1), tensors(0)))
    assert [(o.sequence, o.revision, o.latency, o.attempts) for o in found] == [
        (0, R1, 5, 1),
        (1, R1, 3, 1),
        (2, R1, 1, 1),
    ]
    assert [o.tensors[8][0, 0] for o in found] == [0, 1, 2]
    assert ledger.unanswered == 0
    assert ledger.counters.answered == 3


def test_a_lost_route_sends_unanswered_frames_again_at_once_and_only_those() -> None:
    ledger = running()
    for _ in range(3):
        submit(ledger)
    ledger.result(1, header(1, R1), tensors())
    assert sends(ledger.document(2, document(2, route(R1, "lost"), route(R2)))) == [(0, R2), (2, R2)]
    assert sends(ledger.document(3, document(3, route(R1, "lost"), route(R2), clients=2))) == []
    assert ledger.counters.resent == 2


def test_a_lost_route_without_an_active_one_holds_the_frames_until_there_is_one() -> None:
    ledger = running()
    submit(ledger)
    assert ledger.document(1, document(2, route(R1, "lost"))) == []
    assert submit(ledger, 1.5) == []
    assert ledger.tick(1000) == []
    assert sends(ledger.document(1001, document(3, route(R1, "lost"), route(R2)))) == [(0, R2), (1, R2)]
    assert ledger.counters.missed == 0


@pytest.mark.parametrize("old", [(route(R1, "draining"),), ()], ids=["draining", "absent"])
def test_a_route_that_drains_or_is_absent_is_given_its_deadline(old: tuple[object, ...]) -> None:
    ledger = running(resend_after=4.0)
    submit(ledger, 10.0)
    assert ledger.document(11, document(2, *old, route(R2))) == []  # type: ignore[arg-type]
    assert ledger.tick(13.9) == []
    assert ledger.wake_at is not None
    assert 14.0 <= ledger.wake_at <= 15.0
    assert sends(ledger.tick(ledger.wake_at)) == [(0, R2)]


def test_a_raised_resend_counter_sends_all_again_and_a_lower_one_does_not() -> None:
    ledger = running()
    submit(ledger)
    assert sends(ledger.document(1, document(2, route(R1), resend=1))) == [(0, R1)]
    assert sends(ledger.document(2, document(3, route(R1), resend=1))) == []
    assert sends(ledger.document(3, document(4, route(R1), resend=0))) == []
    assert sends(ledger.document(4, document(5, route(R1), resend=2))) == [(0, R1)]


def test_rule_21_documents_that_are_not_newer_change_nothing() -> None:
    ledger = running()
    ledger.document(1, document(5, route(R1)))
    submit(ledger, 1)
    for stale in (document(4, route(R2)), document(5, route(R2)), document(9, state="removed", term=0)):
        assert ledger.document(2, stale) == []
    assert sends(submit(ledger, 3)) == [(1, R1)]
    assert sends(ledger.document(4, document(1, route(R1, "lost"), route(R2), term=2))) == [(0, R2), (1, R2)]


def test_deadlines_back_off_and_the_jitter_stays_within_a_quarter() -> None:
    ledger = running(resend_after=2.0)
    submit(ledger, 0.0)
    previous, gaps = 0.0, []
    for _ in range(7):
        wake = ledger.wake_at
        assert wake is not None
        assert sends(ledger.tick(wake)) == [(0, R1)]
        gaps.append(wake - previous)
        previous = wake
    for gap, base in zip(gaps, (2, 4, 8, 16, 32, 60, 60), strict=True):
        assert base <= gap <= base * 1.25
    assert ledger.counters.missed == 7


def test_the_default_deadline_follows_the_latency_observed() -> None:
    ledger = running()
    submit(ledger, 0.0)
    assert ledger.wake_at is not None
    assert 10 <= ledger.wake_at <= 12.5
    ledger.result(0.01, header(0, R1), tensors())
    ledger.tick(0.01)
    submit(ledger, 0.0)
    assert 2 <= ledger.wake_at <= 2.5
    ledger.result(1000, header(1, R1), tensors())
    ledger.tick(1000)
    submit(ledger, 1000)
    assert 1060 <= ledger.wake_at <= 1075


def test_frames_wait_while_the_pipeline_is_paused_and_their_deadlines_stand_still() -> None:
    ledger = running(resend_after=4.0)
    submit(ledger, 0.0)
    assert ledger.document(1, document(2, route(R1), state="paused")) == []
    assert submit(ledger, 2) == []
    assert ledger.tick(500) == []
    assert sends(ledger.document(1001, document(3, route(R1)))) == [(1, R1)]
    assert ledger.tick(1003.9) == []
    assert sends(ledger.tick(1005.0)) == [(0, R1)]
    assert ledger.counters.missed == 1


def test_rule_8_after_each_connection_everything_unanswered_goes_out_again() -> None:
    ledger = Ledger("c-1", STREAM)
    assert submit(ledger) == []
    assert ledger.document(1, document(1, route(R1))) == []
    assert sends(ledger.connected(2)) == [(0, R1)]
    submit(ledger, 3)
    ledger.disconnected(4)
    assert submit(ledger, 5) == []
    assert ledger.tick(1000) == []
    assert ledger.document(1001, document(2, route(R1, "lost"), route(R2))) == []
    assert sends(ledger.connected(1002)) == [(0, R2), (1, R2), (2, R2)]
    assert ledger.counters.missed == 0


def test_rule_3_parts_of_one_revision_are_joined_and_a_mixture_is_impossible() -> None:
    ledger = running(route(R1, parts=2))
    submit(ledger)
    assert ledger.result(1, header(0, R1, 0, 2), tensors(1, 8)) == []
    ledger.document(2, document(2, route(R1, "lost", parts=2), route(R2, parts=2)))
    assert ledger.result(3, header(0, R2, 1, 2), tensors(2, 9)) == []
    (found,) = outcomes(ledger.result(4, header(0, R2, 0, 2), tensors(2, 8)))
    assert (found.revision, found.attempts) == (R2, 2)
    assert list(found.tensors) == [8, 9]  # the model's order, whichever part came first
    assert found.tensors[8][0, 0] == 2
    assert found.tensors[9][0] == 2


def test_the_late_answer_of_a_lost_revision_counts_when_it_is_complete_first() -> None:
    ledger = running()
    submit(ledger)
    ledger.document(1, document(2, route(R1, "lost"), route(R2)))
    assert ends(ledger.result(2, header(0, R1), tensors(1))) == [(0, R1)]
    assert ledger.result(3, header(0, R2), tensors(2)) == []
    assert ledger.counters.doubles == 1


HOSTILE: dict[str, tuple[FrameHeader, dict[int, Any]]] = {
    "sequence": (header(5, R1), tensors()),
    "revision": (header(0, R3), tensors()),
    "stream": (header(0, R1, stream=STREAM + 1), tensors()),
    "parts": (header(0, R1, 0, 2), tensors()),
    "late error": (header(0, R1, error="slice-error"), {}),
    "tensors": (header(0, R2), {8: np.zeros((1, 5), np.float32), 9: np.zeros(3, np.int8)}),
}


@pytest.mark.parametrize("cause", HOSTILE)
def test_results_that_do_not_fit_are_counted_and_dropped(cause: str) -> None:
    ledger = running()
    submit(ledger)
    ledger.document(1, document(2, route(R1, "lost"), route(R2)))
    assert ledger.result(2, *HOSTILE[cause]) == []
    assert dict(ledger.counters.dropped) == {cause: 1}
    assert ends(ledger.result(3, header(0, R2), tensors())) == [(0, R2)]


@pytest.mark.parametrize(
    "wrong",
    [
        {8: np.zeros((1, 4), np.float32)},
        {8: np.zeros((1, 4), np.float64), 9: np.zeros(3, np.int8)},
        {**tensors(), 10: np.zeros(1, np.int8)},
        {8: np.zeros((4,), np.float32), 9: np.zeros(3, np.int8)},
        {},
    ],
    ids=["missing", "dtype", "foreign", "rank", "empty"],
)
def test_a_result_with_other_tensors_is_dropped_and_the_true_one_still_counts(
    wrong: dict[int, Any],
) -> None:
    ledger = running()
    submit(ledger)
    assert ledger.result(1, header(0, R1), wrong) == []
    assert dict(ledger.counters.dropped) == {"tensors": 1}
    assert ends(ledger.result(2, header(0, R1), tensors())) == [(0, R1)]


def test_parts_that_bring_one_tensor_twice_are_dropped_together() -> None:
    ledger = running(route(R1, parts=2))
    submit(ledger)
    ledger.result(1, header(0, R1, 0, 2), tensors(5))
    assert ledger.result(1, header(0, R1, 1, 2), tensors(6, 9)) == []
    assert ledger.counters.dropped["tensors"] == 1
    ledger.result(2, header(0, R1, 0, 2), tensors(1, 8))
    ledger.result(2, header(0, R1, 0, 2), tensors(7, 8))
    (found,) = outcomes(ledger.result(2, header(0, R1, 1, 2), tensors(1, 9)))
    assert found.tensors[8][0, 0] == 1
    assert ledger.counters.doubles == 1


def test_an_error_frame_ends_the_frame_with_its_reason() -> None:
    ledger = running()
    submit(ledger)
    (found,) = outcomes(ledger.result(1, header(0, R1, error="poisoned", message="twice"), {}))
    assert (found.reason, found.message, found.revision, found.tensors) == ("poisoned", "twice", R1, {})
    submit(ledger)
    (found,) = outcomes(ledger.result(1, header(1, R1, error="\x1b[31m"), {}))
    assert found.reason == "slice-error"


def test_a_frame_that_cannot_travel_ends_once() -> None:
    ledger = running()
    submit(ledger)
    assert ends(ledger.unsendable(1, 0, "too large")) == [(0, "unsendable")]
    assert ledger.unsendable(2, 0, "too large") == []


def test_an_attempt_is_wanted_while_it_is_the_last_one_of_an_unanswered_frame() -> None:
    ledger = running()
    (first,) = submit(ledger)
    (again,) = ledger.document(1, document(2, route(R1, "lost"), route(R2)))
    assert isinstance(first, Send)
    assert isinstance(again, Send)
    assert [ledger.wants(first), ledger.wants(again)] == [False, True]
    ledger.result(2, header(0, R2), tensors())
    assert not ledger.wants(again)


def test_rule_5_a_changed_specification_ends_frames_and_never_sends_them_on() -> None:
    ledger = running()
    submit(ledger)
    actions = ledger.document(1, document(2, route(R1, "lost"), route(R2), outputs=OTHER))
    assert ends(actions) == [(0, "spec-changed")]
    assert sends(actions) == []
    checked_before_the_change = submit(ledger, 2, SPEC)
    assert ends(checked_before_the_change) == [(1, "spec-changed")]
    assert sends(submit(ledger, 3, spec_digest(document(1).inputs, OTHER))) == [(2, R2)]


def test_frames_held_through_a_pause_end_when_the_specification_changes() -> None:
    ledger = running()
    ledger.document(1, document(2, state="paused"))
    submit(ledger, 2)
    assert ends(ledger.document(3, document(3, route(R2), outputs=OTHER))) == [(0, "spec-changed")]


def test_a_removed_pipeline_ends_frames_and_comes_back_when_it_is_deployed_again() -> None:
    ledger = running()
    submit(ledger)
    submit(ledger)
    assert ends(ledger.document(1, document(2, state="removed"))) == [(0, "removed"), (1, "removed")]
    assert ends(submit(ledger)) == [(2, "removed")]
    ledger.document(2, document(3, route(R2)))
    assert sends(submit(ledger)) == [(3, R2)]


def test_give_up_after_counts_from_submit_through_pauses_and_keeps_the_order() -> None:
    ledger = running(give_up_after=5.0)
    submit(ledger, 0.0)
    submit(ledger, 1.0)
    ledger.document(1, document(2, state="paused"))
    assert ledger.wake_at == 5.0
    assert ends(ledger.tick(4.9)) == []
    assert ends(ledger.tick(5.0)) == [(0, "gave-up")]
    assert ledger.wake_at == 6.0
    assert ends(ledger.result(5.5, header(1, R1), tensors())) == [(1, R1)]
    assert ledger.tick(7) == []
    assert ledger.wake_at is None


def test_without_give_up_after_a_frame_waits_for_ever() -> None:
    ledger = running()
    submit(ledger)
    for day in range(1, 30):
        assert ends(ledger.tick(day * 86400.0)) == []
    assert ends(ledger.result(3e6, header(0, R1), tensors())) == [(0, R1)]


def test_rule_9_a_place_is_held_until_the_application_takes_the_outcome() -> None:
    ledger = running()
    ledger.document(0, document(2, route(R1), window=5, clients=2))
    submit(ledger)
    seen = [ledger.room]
    submit(ledger)
    seen.append(ledger.room)
    ledger.result(1, header(0, R1), tensors())
    seen.append(ledger.room)
    ledger.taken()
    seen.append(ledger.room)
    assert seen == [True, False, False, True]
    assert ledger.held == 1


def test_missed_deadlines_halve_the_window_once_and_results_let_it_grow_back() -> None:
    ledger = running(resend_after=2.0)
    for _ in range(8):
        submit(ledger)
    ledger.tick(3.0)
    assert (ledger.counters.missed, ledger.window.size, ledger.window.share) == (8, 4, 8)
    for sequence in range(5):
        ledger.result(4, header(sequence, R1), tensors())
    assert ledger.window.size == 5
    ledger.tick(8.1)
    assert ledger.window.size == 2
    ledger.document(9, document(2, route(R1), window=1))
    assert ledger.window.size == 1
    ledger.document(9, document(3, route(R1), window=6))
    assert ledger.window.size == 6


def test_routes_are_chosen_by_weight_and_depend_on_the_frame_alone() -> None:
    first, second = (running(route(R1, weight=3.0), route(R2, weight=1.0), route(R3, weight=0.0)) for _ in range(2))
    chosen = [sends(submit(first))[0][1] for _ in range(2000)]
    assert chosen == [sends(submit(second))[0][1] for _ in range(2000)]
    assert chosen.count(R3) == 0
    assert 400 < chosen.count(R2) < 600


def test_each_attempt_reports_its_number_and_keeps_the_route_it_was_made_from() -> None:
    ledger = running()
    (first,) = submit(ledger)
    (again,) = ledger.document(1, document(2, route(R1, "lost"), route(R2, parts=2)))
    assert isinstance(first, Send)
    assert isinstance(again, Send)
    assert (first.attempt, first.route.revision, first.route.parts) == (1, R1, 1)
    assert (again.attempt, again.route.revision, again.route.parts) == (2, R2, 2)
    assert again.inputs is first.inputs


def test_a_failover_is_timed_from_the_loss_to_the_first_result_of_the_new_revision() -> None:
    ledger = running()
    submit(ledger)
    submit(ledger)
    ledger.document(10, document(2, route(R1, "lost")))
    ledger.document(11, document(3, route(R1, "lost"), route(R2)))
    ledger.result(12, header(0, R1), tensors())
    assert list(ledger.counters.failovers) == []
    ledger.result(12.5, header(1, R2), tensors())
    (failover,) = ledger.counters.failovers
    assert (failover.lost, failover.revision, failover.at, failover.seconds) == (R1, R2, 10, 2.5)


def test_a_loss_that_touches_no_frame_is_no_failover() -> None:
    ledger = running()
    ledger.document(10, document(2, route(R1, "lost"), route(R2)))
    submit(ledger, 50)
    ledger.result(51, header(0, R2), tensors())
    assert list(ledger.counters.failovers) == []


def test_a_loss_whose_frames_all_gave_up_is_not_counted_later() -> None:
    ledger = running(give_up_after=5)
    submit(ledger)
    ledger.document(1, document(2, route(R1, "lost")))
    ledger.tick(5)
    ledger.document(100, document(3, route(R1, "lost"), route(R2)))
    submit(ledger, 200)
    ledger.result(201, header(1, R2), tensors())
    assert list(ledger.counters.failovers) == []


def test_closing_ends_everything_and_nothing_is_sent_afterwards() -> None:
    ledger = running()
    submit(ledger)
    submit(ledger)
    ledger.result(1, header(1, R1), tensors())
    assert ends(ledger.close(2)) == [(0, "closed"), (1, R1)]
    assert ends(submit(ledger, 3)) == [(2, "closed")]
    assert ledger.tick(1000) == []
    assert ledger.connected(1001) == []
    assert ledger.document(1002, document(2, route(R2))) == []
    assert ledger.wake_at is None


def test_the_parts_of_a_result_are_those_of_the_frames_turn() -> None:
    ledger = running(turning(R1, 1, 2))
    for _ in range(3):
        submit(ledger)
    # Frames 0 and 2 take the lane whose results are whole, frame 1 the other one.
    for wrong in (header(1, R1, 0, 1), header(2, R1, 0, 2)):
        assert ledger.result(1, wrong, tensors()) == []
    assert dict(ledger.counters.dropped) == {"parts": 2}
    assert ends(ledger.result(2, header(2, R1), tensors(2))) == []
    assert ends(ledger.result(3, header(1, R1, 1, 2), tensors(1, 9))) == []
    assert ends(ledger.result(4, header(0, R1), tensors(0))) == [(0, R1)]
    found = outcomes(ledger.result(5, header(1, R1, 0, 2), tensors(1, 8)))
    assert [(o.sequence, o.tensors[8][0, 0]) for o in found] == [(1, 1), (2, 2)]


def test_what_is_sent_again_takes_the_turn_of_the_newer_revision() -> None:
    ledger = running(turning(R1, 1, 1))
    for _ in range(4):
        submit(ledger)
    again = ledger.document(1, document(2, turning(R1, 1, 1, state="lost"), turning(R2, 1, 1, 2)))
    turns = [
        (a.sequence, a.route.turn(a.sequence), a.route.lane(a.sequence).entry[0].id)
        for a in again
        if isinstance(a, Send)
    ]
    assert turns == [(0, 0, "b0"), (1, 1, "b1"), (2, 2, "b2"), (3, 0, "b0")]
    # A late answer of the first revision still counts, and has its own parts.
    assert ends(ledger.result(2, header(0, R1), tensors())) == [(0, R1)]
    assert ends(ledger.result(3, header(1, R2), tensors())) == [(1, R2)]
    assert ends(ledger.result(4, header(2, R2), tensors())) == []
    assert ends(ledger.result(4, header(2, R1), tensors())) == [(2, R1)]


@pytest.mark.parametrize("kind", ["foreign tensor", "foreign tensor of a turn", "revision twice"])
def test_a_document_that_makes_no_sense_is_dropped(kind: str) -> None:
    ledger = running()
    routes = {
        "foreign tensor": [replace(route(R2), entry=(Bundle("b0", OUTPUTS),))],
        "foreign tensor of a turn": [
            replace(turning(R2, 1, 1), lanes=(turning(R2, 1, 1).lanes[0], Lane((1,), (Bundle("b1", OUTPUTS),), 1)))
        ],
        "revision twice": [route(R2), route(R2)],
    }[kind]
    ledger.document(1, document(2, *routes))
    assert dict(ledger.counters.dropped) == {"document": 1}
    assert sends(submit(ledger, 2)) == [(0, R1)]


def test_a_stateful_pipeline_has_one_turn_rule_6() -> None:
    ledger = running()
    ledger.document(1, document(2, turning(R2, 1, 1), stateful=True))
    assert dict(ledger.counters.dropped) == {"document": 1}
    assert sends(submit(ledger, 2)) == [(0, R1)]
