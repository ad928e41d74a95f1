"""A loss is answered by the plan that was made ahead for it, and everything is still answered."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.scene import LARGER, PATIENT, Flow, Wire, deploy, model, new_site, room_for, started
from tests.waiting import eventually

NODES = ("n1", "n2", "n3", "n4")


@pytest.mark.slow
def test_a_loss_after_plans_are_ready_needs_no_planning(tmp_path: Path) -> None:
    file = model(LARGER)
    with new_site(tmp_path) as site, Wire(started(site, NODES, *room_for(13), coordinator=PATIENT)) as wire:
        # What is estimated is not corrected by what is measured, so no correction makes plans anew meanwhile.
        deploy(site, file, "faces", "--profile", "estimate")

        def status() -> dict[str, Any]:
            found: dict[str, Any] = site.json("status")["pipelines"][0]
            return found

        used = wire.nodes()
        assert len(used) >= 2
        # Before frames take the processor, because what is made in idle time gives way to them.
        eventually(lambda: wire.planning()["contingencies"] == {"ready": len(used), "wanted": len(used)}, 120.0)
        with Flow(site, file) as flow:
            flow.passes(20)
            before = status()
            assert before["contingencies"] == {"ready": len(used), "wanted": len(used)}
            assert before["prepared_for"] is None
            for row in before["slices"]:
                assert row["measured_ms"] > 0
                assert row["ratio"] > 0
            dead = used[-1]
            site.nodes[dead].signal(signal.SIGKILL)
            second = flow.moves_on()
            flow.passes(20)
            assert wire.planning()["prepared_for"] == dead
            assert dead not in wire.nodes()
        log = (tmp_path / "coordinator.log").read_text(encoding="utf-8")
        assert f"revision {second} preparing, by the plan made ahead for the loss of node {dead}" in log
