"""What `status` and `node list` make of documents: standbys, rollouts, draining nodes, crashes, poison."""

from __future__ import annotations

import json
from typing import Any

from coordinator.cli.common import Network, Output
from coordinator.cli.node_list import node_rows, node_table
from coordinator.cli.rollouts import coordinator_note
from coordinator.cli.status import status_body, status_text
from coordinator.cli.view import View
from slicemq.messages import (
    Artifact,
    Assignment,
    Bundle,
    CoordinatorState,
    Crash,
    FrameName,
    Heartbeat,
    NodeState,
    PipelineDocument,
    Report,
    Route,
    Stamp,
    TensorSpec,
)
from slicemq.operations import RolloutDocument, RolloutEntry, StandbyState
from slicemq.options import BrokerOptions

STAMP = Stamp(3, "6fe1c24b09d3a855", 1)
NET = Network(BrokerOptions(host="broker.local", port=1883), "site-a")
BUNDLES = (Bundle("b0", (TensorSpec(0, "x", "float32", (1, 2)),)),)
FRAME = FrameName("cam-1", "1122334455667788", 42)


def route(revision: str, weight: float) -> Route:
    return Route(revision, "active", weight, BUNDLES, 1)


def view() -> View:
    pipeline = PipelineDocument(
        "faces",
        STAMP,
        "running",
        "",
        "a" * 64,
        "s",
        (),
        (),
        (route("3-9f2c41d7", 0.9), route("4-77aa01bc", 0.1)),
        shadow=route("5-00000000", 0.25),
        poisoned=(FRAME,),
    )
    entry = RolloutEntry("4-77aa01bc", Artifact("b" * 64, 1), "canary", 100.0, fraction=0.1, paused=True)
    crashes = (
        Crash("faces", "3-9f2c41d7", "s1", FRAME, 2, "signal SIGSEGV"),
        Crash("faces", "3-9f2c41d7", "s0", None, 1, "exit code 1"),
    )
    return View(
        coordinator=CoordinatorState("ready", STAMP, 0.0, "0.1.0"),
        coordinator_beats={STAMP.instance},
        states={"n1": NodeState("n1", "ready", "e"), "n2": NodeState("n2", "lost", "e")},
        reports={"n1": Report("n1", "e", 1, crashes=crashes)},
        assignments={"n1": Assignment("n1", STAMP, (), draining=True, reason="no room elsewhere")},
        beats={"n1": Heartbeat("n1", "e", 1, 0.1, 1)},
        pipelines={"faces": pipeline},
        rollouts={"faces": RolloutDocument("faces", STAMP, entry)},
        standbys={"07d1c24b09d3a8ff": StandbyState("07d1c24b09d3a8ff", "ready", STAMP, 0.0, "0.1.0")},
    )


def test_status_names_all_that_an_operator_must_know() -> None:
    body: dict[str, Any] = status_body(view(), NET, 110.0)
    lines = [line.strip() for line in status_text(body, Output()).splitlines()]
    for expected in (
        "standby 07d1c24b: ready (0.1.0)",
        "n1: still has slices: no room elsewhere",
        "n1: the worker of faces/s1 (3-9f2c41d7) died on frame 42 of cam-1, 2 times: signal SIGSEGV",
        "n1: the worker of faces/s0 (3-9f2c41d7) died while it loaded, once: exit code 1",
        "pipeline faces: running (3-9f2c41d7 active 90%, 4-77aa01bc active 10%)",
        "rollout of 4-77aa01bc: canary at 10% of the frames, paused",
        "25% of the frames are copied to 5-00000000",
        "poisoned frames: 42 of cam-1",
    ):
        assert expected in lines
    again = json.loads(json.dumps(body, allow_nan=False))
    assert again["rollouts"][0]["current"]["seconds"] == 10.0
    assert again["pipelines"][0]["poisoned"] == [{"client": "cam-1", "stream": "1122334455667788", "sequence": 42}]


def test_draining_nodes_are_marked_and_a_dead_one_keeps_its_state() -> None:
    rows = node_rows(view())
    assert [(row["node"], row["state"], row["draining"]) for row in rows] == [
        ("n1", "ready", True),
        ("n2", "lost", False),
    ]
    assert "ready, draining" in node_table(rows, Output())


def test_without_coordinator_it_is_said_that_what_is_shown_is_old() -> None:
    """Rule 15: retained documents say what was; nobody may take them for what is."""
    found = view()
    assert coordinator_note(found) == ""
    found.coordinator_beats.clear()
    assert coordinator_note(found).startswith("no coordinator (it is silent)")
    assert coordinator_note(View()).startswith("no coordinator (none has ever been there)")
