"""The health gate: policies are checked, evidence is bounded and refused where hostile, and judged by tables."""

from __future__ import annotations

import math
from typing import Any

import pytest

from coordinator.gate import MOST_CLIENTS, Evidence, Policy, policy_from_plain, read_testimony
from slicemq.errors import ProtocolError

OLD, NEW = "3-00000003", "4-00000004"
WHERE = "requests/cli/deploy: field rollout"


def test_an_empty_policy_has_the_documented_defaults() -> None:
    assert policy_from_plain({}, WHERE) == Policy(0.0, 0.0, 100, 10.0, 600.0, 0.01, 2.0, None, "auto")
    assert policy_from_plain({"max_difference": None}, WHERE).max_difference is None
    assert policy_from_plain({"canary": 0.1, "shadow": 1}, WHERE).steps == ("shadow", "canary")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "expected an object"),
        ({"canry": 0.1}, "field 'canry': expected one of canary"),
        ({"canary": 0.5}, "canary: expected a share from 0 to below 0.5"),
        ({"canary": "much"}, "canary: expected a share"),
        ({"canary": True}, "canary: expected a share"),
        ({"canary": math.nan}, "canary: expected a share"),
        ({"shadow": 1.1}, "shadow: expected a share from 0 to 1"),
        ({"frames": 0}, "frames: expected a whole number from 1"),
        ({"frames": 10.5}, "frames: expected a whole number"),
        ({"seconds": -1}, "seconds: expected seconds from 0"),
        ({"deadline": 1e400}, "deadline: expected seconds"),
        ({"max_failed": 10**400}, "max_failed: expected a share"),
        ({"max_slowdown": 0.9}, "max_slowdown: expected a factor from 1"),
        ({"max_difference": -1e-9}, "max_difference: expected 0 or more"),
        ({"promote": "soon"}, "promote: expected auto or manual"),
        ({"promote": "manual"}, "manual needs a canary or a shadow"),
        ({"canary": 0.1, "seconds": 60, "deadline": 60}, "deadline: expected more than the least time"),
    ],
)
def test_a_wrong_policy_names_its_field(body: Any, text: str) -> None:
    with pytest.raises(ProtocolError, match=f"{WHERE}.*{text}"):
        policy_from_plain(body, WHERE)


def figures(answered: float, failed: float = 0, p95_ms: float = 0.0) -> dict[str, float]:
    return {"answered": answered, "failed": failed, "mean_ms": 0.0, "p95_ms": p95_ms}


def say(evidence: Evidence, client: str = "cam-1", **body: Any) -> bool:
    return evidence.hear(read_testimony(client, {"pipeline": "faces", **body}, "requests/cam-1/evidence"))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "expected an object"),
        ({"pipeline": "No"}, "field pipeline"),
        ({"pipeline": "faces", "figures": []}, "field figures"),
        ({"pipeline": "faces", "figures": {f"{n}-00000000": {} for n in range(1, 10)}}, "at most 8 revisions"),
        ({"pipeline": "faces", "figures": {"new": {}}}, "expected a revision"),
        ({"pipeline": "faces", "figures": {NEW: 3}}, "expected an object"),
        ({"pipeline": "faces", "figures": {NEW: {"answered": -1}}}, "answered: expected a finite number"),
        ({"pipeline": "faces", "figures": {NEW: {"failed": math.nan}}}, "failed: expected a finite number"),
        ({"pipeline": "faces", "figures": {NEW: {"p95_ms": math.inf}}}, "p95_ms: expected a finite number"),
        ({"pipeline": "faces", "figures": {NEW: {"answered": True}}}, "answered: expected a finite number"),
        ({"pipeline": "faces", "shadow": 1}, "shadow: expected an object"),
        ({"pipeline": "faces", "shadow": {"revision": "x"}}, "shadow: expected a revision"),
        ({"pipeline": "faces", "shadow": {"revision": NEW, "worst": "big"}}, "worst: expected a finite number"),
    ],
)
def test_hostile_evidence_is_refused(body: Any, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        read_testimony("cam-1", body, "requests/cam-1/evidence")


POLICY = Policy(canary=0.1, frames=100, seconds=10.0, max_failed=0.02, max_slowdown=1.5, max_difference=0.01)


@pytest.mark.parametrize(
    ("old", "new", "slices", "seconds", "word", "text"),
    [
        (figures(900, 0, 20), None, [], 60.0, "wait", "0 of 100 frames"),
        (figures(900, 0, 20), figures(99, 0, 20), [], 60.0, "wait", "99 of 100 frames"),
        (figures(900, 0, 20), figures(500, 0, 20), [], 9.0, "wait", "9 of 10 s"),
        (figures(900, 0, 20), figures(100, 0, 20), [(100, 0)], 10.0, "pass", "100 frames in 10 s"),
        (figures(900, 0, 20), figures(98, 2, 20), [], 10.0, "pass", "100 frames"),
        # Three failures are more than 2 % of any 100 frames: there is nothing to wait for.
        (figures(900, 0, 20), figures(0, 3, 20), [], 1.0, "fail", "3 of 3 frames failed"),
        (figures(900, 0, 20), figures(0, 2, 20), [], 1.0, "wait", "2 of 100"),
        (figures(900, 0, 20), figures(100, 0, 31), [], 10.0, "fail", "1.55 times the 20 ms of 3-00000003"),
        (figures(900, 0, 20), figures(99, 0, 900), [], 10.0, "wait", "99 of 100"),
        (figures(0, 0, 0), figures(100, 0, 900), [], 10.0, "pass", "100 frames"),
        (figures(900, 0, 20), figures(0, 0, 0), [(40, 0), (9, 3)], 1.0, "fail", "3 of 12 frames with an error"),
        (figures(900, 0, 20), figures(0, 0, 0), [(10_000, 3)], 1.0, "wait", "0 of 100"),
    ],
)
def test_what_the_gate_says(old: Any, new: Any, slices: Any, seconds: float, word: str, text: str) -> None:
    evidence = Evidence(OLD, NEW, "canary")
    say(evidence, figures={OLD: figures(0)})
    say(evidence, figures={OLD: old} if new is None else {OLD: old, NEW: new})
    evidence.slices(slices)
    verdict = evidence.judge(POLICY, seconds)
    assert (verdict.word, text in verdict.reason) == (word, True), verdict


@pytest.mark.parametrize(("worst", "word"), [(0.0, "pass"), (0.01, "pass"), (0.0101, "fail"), (None, "fail")])
def test_a_shadow_is_judged_by_its_difference(worst: float | None, word: str) -> None:
    evidence = Evidence(OLD, NEW, "shadow")
    shadow = {"revision": NEW, "sent": 120, "compared": 110, "failed": 0, "worst": worst, "p95_ms": 20.0}
    assert say(evidence, figures={OLD: figures(900, 0, 20.0)}, shadow=shadow)
    assert evidence.judge(POLICY, 10.0).word == word
    assert all(math.isfinite(value) for value in evidence.figures().values())


def test_counts_of_a_clients_life_are_counted_once() -> None:
    evidence = Evidence(OLD, NEW, "canary")
    for count in (10, 10, 25):
        say(evidence, figures={OLD: figures(1000 + count), NEW: figures(count)})
    assert (evidence.figures()["answered"], evidence.figures()["before_answered"]) == (25.0, 15.0)
    # The client began a new life, and another one speaks.
    say(evidence, figures={NEW: figures(5)})
    say(evidence, "cam-2", figures={NEW: figures(7, 1)})
    assert (evidence.figures()["answered"], evidence.figures()["failed"]) == (37.0, 1.0)
    assert evidence.figures()["clients"] == 2.0


def test_what_is_not_about_the_two_or_of_too_many_clients_is_left_out() -> None:
    evidence = Evidence(OLD, NEW, "canary")
    assert not say(evidence, figures={"9-00000000": figures(5)}, shadow={"revision": NEW, "compared": 5})
    for number in range(MOST_CLIENTS + 20):
        say(evidence, f"cam-{number}", figures={NEW: figures(1)})
    assert evidence.figures()["answered"] == MOST_CLIENTS
