"""Stateful pipelines as the client sees them: one frame at a time, resets that show (protocol rules 5 and 6)."""

from __future__ import annotations

from typing import Any

import pytest

from slicemq.errors import FrameFailedError, StreamBusy, StreamReset, frame_failed
from slicemq.ledger import Ledger
from slicemq.messages import PipelineDocument, Route
from slicemq.outcomes import Action, Release, Send
from slicemq.run import Run
from tests.contract.ledger_tools import (
    OUTPUTS,
    R1,
    R2,
    SPEC,
    STREAM,
    document,
    ends,
    header,
    outcomes,
    route,
    submit,
    tensors,
)


def paper(counter: int, *routes: Route, **more: Any) -> PipelineDocument:
    return document(counter, *routes, **{"window": 1, "stateful": True, **more})


def running(*routes: Route, **settings: Any) -> Ledger:
    ledger = Ledger("c-1", STREAM, **settings)
    ledger.document(0.0, paper(1, *(routes or (route(R1),))))
    ledger.connected(0.0)
    return ledger


def sends(actions: list[Action]) -> list[tuple[int, str, int]]:
    """(sequence, revision, first frame of its run)."""
    return [(one.sequence, one.route.revision, one.first) for one in actions if isinstance(one, Send)]


def answer(ledger: Ledger, sequence: int, revision: str = R1, now: float = 0.0) -> list[Action]:
    return ledger.result(now, header(sequence, revision), tensors(sequence))


def error(ledger: Ledger, sequence: int, reason: str, revision: str = R1) -> list[Action]:
    return ledger.result(0.0, header(sequence, revision, error=reason, message="why"), {})


def test_the_frames_of_a_run_say_with_which_frame_it_began() -> None:
    ledger = running()
    for n in range(3):
        assert sends(submit(ledger)) == [(n, R1, 0)]
        assert ends(answer(ledger, n)) == [(n, R1)]


def test_a_frame_waits_for_the_end_of_the_one_before() -> None:
    ledger = running()
    assert sends(submit(ledger)) == [(0, R1, 0)]
    assert submit(ledger) == []
    assert submit(ledger) == []
    actions = answer(ledger, 0)
    assert ends(actions) == [(0, R1)]
    assert sends(actions) == [(1, R1, 0)]
    # On a new connection what is unanswered goes out again, one at a time as before (rule 8).
    assert sends(ledger.connected(1.0)) == [(1, R1, 0)]
    actions = error(ledger, 1, "slice-error")
    assert ends(actions) == [(1, "slice-error")]
    assert sends(actions) == [(2, R1, 2)]


def test_repeats_keep_the_name_of_the_run() -> None:
    ledger = running(resend_after=1.0)
    submit(ledger)
    answer(ledger, 0)
    submit(ledger)
    assert sends(ledger.tick(5.0)) == [(1, R1, 0)]
    assert sends(ledger.document(6.0, paper(2, route(R1), resend=1))) == [(1, R1, 0)]
    assert sends(ledger.connected(7.0)) == [(1, R1, 0)]


def test_a_lost_revision_ends_the_frame_that_waits_and_the_next_begins_anew() -> None:
    ledger = running()
    submit(ledger)
    answer(ledger, 0)
    submit(ledger)
    # No other revision is there yet: the state is gone all the same.
    assert ends(ledger.document(1.0, paper(2, route(R1, "lost"), state="paused"))) == [(1, "stream-reset")]
    assert submit(ledger) == []
    assert sends(ledger.document(2.0, paper(3, route(R1, "lost"), route(R2)))) == [(2, R2, 2)]
    assert ends(answer(ledger, 2, R2)) == [(2, R2)]
    assert sends(submit(ledger)) == [(3, R2, 2)]


@pytest.mark.parametrize("state", ["lost", "draining"])
def test_a_reset_between_two_frames_ends_the_next_one_unsent_and_once(state: Any) -> None:
    ledger = running()
    submit(ledger)
    answer(ledger, 0)
    assert ledger.document(1.0, paper(2, route(R1, state), route(R2))) == []
    actions = submit(ledger, 2.0)
    assert ends(actions) == [(1, "stream-reset")]
    assert sends(actions) == []
    assert sends(submit(ledger, 3.0)) == [(2, R2, 2)]


def test_a_frame_on_a_draining_revision_is_still_answered_there() -> None:
    ledger = running(resend_after=2.0)
    submit(ledger)
    answer(ledger, 0)
    submit(ledger)
    assert ledger.document(1.0, paper(2, route(R1, "draining"), route(R2))) == []
    assert ends(answer(ledger, 1)) == [(1, R1)]
    assert ends(submit(ledger)) == [(2, "stream-reset")]
    # And when its answer does not come, the state is still not elsewhere.
    assert sends(submit(ledger)) == [(3, R2, 3)]
    answer(ledger, 3, R2)
    submit(ledger)
    ledger.document(4.0, paper(3, route(R2, "draining"), route(R1)))
    assert ends(ledger.tick(9.0)) == [(4, "stream-reset")]


@pytest.mark.parametrize("state", ["lost", "draining"])
def test_the_first_frame_of_a_run_moves_to_another_revision_and_nothing_is_reset(state: Any) -> None:
    ledger = running(resend_after=2.0)
    submit(ledger)
    moved = ledger.document(1.0, paper(2, route(R1, state), route(R2)))
    moved = moved or ledger.tick(4.0)
    assert sends(moved) == [(0, R2, 0)]
    assert ends(answer(ledger, 0, R2)) == [(0, R2)]
    assert sends(submit(ledger)) == [(1, R2, 0)]


@pytest.mark.parametrize("reason", ["stream-reset", "slice-error", "poisoned"])
def test_after_any_failure_the_next_frame_begins_a_run(reason: str) -> None:
    ledger = running()
    submit(ledger)
    answer(ledger, 0)
    submit(ledger)
    assert ends(error(ledger, 1, reason)) == [(1, reason)]
    assert sends(submit(ledger)) == [(2, R1, 2)]


def test_a_frame_given_up_ends_its_run() -> None:
    ledger = running(give_up_after=5.0)
    submit(ledger)
    answer(ledger, 0)
    submit(ledger, 1.0)
    assert ends(ledger.tick(6.0)) == [(1, "gave-up")]
    assert answer(ledger, 1) == []
    assert sends(submit(ledger)) == [(2, R1, 2)]


def test_a_busy_stream_gives_back_what_other_slices_may_have_granted() -> None:
    ledger = running()
    submit(ledger)
    actions = error(ledger, 0, "stream-busy")
    assert ends(actions) == [(0, "stream-busy")]
    assert [one for one in actions if isinstance(one, Release)] == [Release(R1, 0)]


def test_the_end_gives_the_lease_back() -> None:
    ledger = running()
    assert ledger.close(0.0) == []
    ledger = running()
    submit(ledger)
    answer(ledger, 0)
    assert ledger.close(1.0) == [Release(R1, 1)]
    # A failure before does not keep it.
    ledger = running(give_up_after=1.0)
    submit(ledger)
    ledger.tick(2.0)
    assert Release(R1, 1) in ledger.close(3.0)


def test_a_pipeline_without_state_names_no_run() -> None:
    ledger = Ledger("c-1", STREAM)
    ledger.document(0.0, document(1, route(R1)))
    ledger.connected(0.0)
    submit(ledger)
    answer(ledger, 0)
    assert sends(submit(ledger)) == [(1, R1, 0)]
    assert sends(submit(ledger)) == [(2, R1, 0)]
    assert not [one for one in ledger.close(1.0) if isinstance(one, Release)]


def test_a_model_that_becomes_stateful_gets_its_frames_one_at_a_time() -> None:
    ledger = Ledger("c-1", STREAM)
    ledger.document(0.0, document(1, route(R1)))
    ledger.connected(0.0)
    for _ in range(3):
        submit(ledger)
    assert sends(ledger.document(1.0, paper(2, route(R1, "lost"), route(R2)))) == [(0, R2, 0)]
    for n in (1, 2):
        assert sends(answer(ledger, n - 1, R2)) == [(n, R2, 0)]


def test_removal_and_other_tensors_end_the_frames_as_ever() -> None:
    for change, reason in ((paper(2, state="removed"), "removed"), (paper(2, outputs=OUTPUTS[:1]), "spec-changed")):
        ledger = running()
        submit(ledger)
        answer(ledger, 0)
        submit(ledger)
        assert ends(ledger.document(1.0, change)) == [(1, reason)]


def test_a_result_is_whole_and_carries_its_run_no_further() -> None:
    ledger = running()
    submit(ledger)
    (outcome,) = outcomes(answer(ledger, 0))
    assert (outcome.sequence, outcome.revision, outcome.reason) == (0, R1, "")
    assert ledger.submit(0.0, {0: "y"}, SPEC)[0] == 1


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [("stream-reset", StreamReset, 63), ("stream-busy", StreamBusy, 64), ("gave-up", FrameFailedError, 62)],
)
def test_the_errors_have_types_and_codes(reason: str, kind: type[FrameFailedError], code: int) -> None:
    failed = frame_failed(reason, "why", 4)
    assert type(failed) is kind
    assert (failed.reason, failed.sequence, failed.exit_code) == (reason, 4, code)
    assert str(failed) == f"frame 4: {reason}: why"


def test_a_run_names_its_place() -> None:
    run = Run()
    assert run.place(4, R1) == 4
    assert run.place(5, R1) == 4
    assert run.place(6, R2) is None
    run.end()
    assert run.place(6, R2) == 6
