"""The judge of hot upgrades, their schedule, and the models that they alternate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models import real_models
from benchmarks.upgrade_growth import Sizes, growth
from benchmarks.upgrade_load import Answered, Judged, judge, longest_gap, rate_between
from benchmarks.upgrade_models import with_detour, with_other_weights
from benchmarks.upgrade_report import BAD, GOOD, Outcome, Upgrade
from benchmarks.upgrades import schedule
from edge_node.runtime import open_interpreter
from slicemq.errors import SliceMQError

MODELS = {"1-00000000": "first", "2-00000000": "second"}


def answered(sequence: int, revision: str = "1-00000000", by: str = "first", error: str = "") -> Answered:
    return Answered(sequence, sequence, float(sequence), revision, frozenset({by} if by else ()), error)


def test_answers_of_two_revisions_in_order_are_sound() -> None:
    found = judge(3, [answered(0), answered(1), answered(2, "2-00000000", "second")], MODELS)
    assert found == Judged(submitted=3, answered=3)
    assert found.sound


@pytest.mark.parametrize(
    ("answers", "field", "count"),
    [
        ([answered(0), answered(1)], "lost", 1),
        ([answered(0), answered(1), answered(2, error="gave-up")], "lost", 1),
        ([answered(0), answered(1), answered(1), answered(2)], "doubled", 1),
        ([answered(1), answered(0), answered(2)], "disordered", 3),
        ([answered(0), answered(1, by=""), answered(2)], "mixed", 1),
        ([answered(0), answered(1, by="second"), answered(2)], "mixed", 1),
        ([answered(0), answered(1, "9-00000000"), answered(2)], "unplaced", 1),
    ],
)
def test_what_is_wrong_with_answers_is_counted(answers: list[Answered], field: str, count: int) -> None:
    found = judge(3, answers, MODELS)
    assert getattr(found, field) == count
    assert not found.sound


def test_nothing_at_all_is_not_sound() -> None:
    assert not judge(0, [], MODELS).sound


def test_the_schedule_is_drawn_and_starts_well() -> None:
    kinds = schedule(200, 20, 7)
    assert kinds == schedule(200, 20, 7)
    assert kinds != schedule(200, 20, 8)
    assert kinds[0] is GOOD
    assert [kinds.count(kind) for kind in (GOOD, *BAD)] == [180, 5, 5, 5, 5]
    with pytest.raises(SliceMQError, match="--bad"):
        schedule(4, 4, 1)


def test_rates_and_gaps_are_of_the_interval() -> None:
    times = [0.0, 1.0, 1.5, 2.0, 5.0]
    assert rate_between(times, 1.0, 3.0) == 1.5
    assert longest_gap(times, 0.5, 4.5) == 2.5


SIZES = Sizes(5, 12, 30.0, 10.0, 100.0, 150.0, 200.0, 1.0, 1.0)


def test_growth_is_told() -> None:
    assert growth([SIZES, replace(SIZES, revisions=200, broker_mb=20.0, nodes_mb=229.0)]) == []
    grown = growth([SIZES, replace(SIZES, revisions=200, topics=13, coordinator_mb=121.0)])
    assert len(grown) == 2
    assert grown[0] == "retained topics grew from 12 to 13"


def test_an_outcome_names_all_that_does_not_hold() -> None:
    one = Upgrade(1, "good", "second", 0, "", 3.0, 90.0, 100.0, 0.1, "")
    fine = Outcome([one], judge(1, [answered(0)], MODELS), [SIZES], 2)
    assert fine.faults() == []
    slow = replace(fine, upgrades=[replace(one, rate=70.0), replace(one, kind="too big", wrong="it ran")])
    assert slow.faults() == [
        "upgrade 1 (too big): it ran",
        "a good upgrade keeps 70 % of the rate, expected 80 %",
    ]
    lost = replace(fine, judged=judge(2, [answered(0)], MODELS))
    assert not lost.judged.sound
    assert lost.faults() == ["1 frame of 2 has no answer"]


def outputs(model: bytes, frame: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[bytes]:
    interpreter = open_interpreter(model)
    interpreter.set_input(0, frame)
    interpreter.invoke()
    return [interpreter.output(number).tobytes() for number in range(len(interpreter.outputs))]


def test_models_of_one_interface_differ_or_agree_as_they_should() -> None:
    file: Path = real_models()["face-short-range"].path
    frame = np.random.default_rng(3).uniform(-1, 1, (1, 128, 128, 3)).astype(np.float32)
    expected = outputs(file.read_bytes(), frame)
    other = outputs(with_other_weights(file, 1.25), frame)
    assert all(one != two for one, two in zip(expected, other, strict=True))
    assert outputs(with_detour(file, 8, side=3, times=1), frame) == expected
