"""A pipeline that runs moves by itself when that is worth it, and no frame notices."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from emulator.cgroups import limit
from tests.e2e.scene import LARGER, ONE_TURN, PATIENT, Flow, Wire, deploy, model, new_site, start_node, started
from tests.emulator.machine import need_limits

pytestmark = pytest.mark.slow
# It moves when what it knows has not changed for half a minute, by a plan that idle time must make.
MOVES = 150.0


def test_a_pipeline_moves_to_a_node_that_joins(tmp_path: Path) -> None:
    with new_site(tmp_path) as site, Wire(started(site, ("n1",), coordinator=PATIENT)) as wire:
        # What is measured on a busy machine would let it wait longer for facts that stay the same.
        deploy(site, model(), "faces", "--profile", "estimate")
        with Flow(site, model()) as flow:
            flow.passes()
            assert set(wire.nodes()) == {"n1"}
            start_node(site, "n2")
            flow.moves_on(MOVES)
            flow.passes()
            assert set(wire.nodes()) == {"n1", "n2"}
            assert wire.planning()["moved"].startswith("rebalanced: ")
            assert len(flow.revisions) == 2


def test_a_pipeline_leaves_a_node_that_became_slow(tmp_path: Path) -> None:
    """Its stage takes five times as long as planned: what is measured counts, not what the node said of itself."""
    need_limits()
    file = model(LARGER)
    with contextlib.ExitStack() as stack, new_site(tmp_path) as site:
        group = limit("slow-node")
        stack.callback(group.remove)
        started(site, ("n2",), coordinator=PATIENT)
        start_node(site, "n1", prefix=group.prefix())
        site.wait_ready(("n1", "n2"))
        with Wire(site) as wire:
            deploy(site, file, "faces", *ONE_TURN, "--pin", "s0=n1")
            # Where it runs is left to the plans from here on.
            site.json("node", "unpin", "faces", "s0")
            with Flow(site, file, limit=2) as flow:
                flow.passes()
                before = wire.plan().plan["slices"]
                assert "n1" in wire.nodes()
                group.set_limits(share=0.2)
                flow.moves_on(MOVES)
                flow.passes()
                assert wire.plan().plan["slices"] != before
                assert wire.planning()["moved"].startswith("rebalanced: ")
                assert len(flow.revisions) == 2
