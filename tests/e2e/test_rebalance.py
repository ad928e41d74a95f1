"""A pipeline that runs moves by itself when that is worth it, and no frame notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.scene import LARGER, ONE_TURN, PATIENT, Flow, Wire, deploy, model, new_site, start_node, started
from tests.fragile import tired_runtime

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


def test_a_pipeline_leaves_a_node_that_became_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stage takes four times as long as planned: what is measured counts, not what the node said of itself."""
    file, mark = model(LARGER), tmp_path / "tired"
    (tmp_path / "runtime").mkdir()
    with new_site(tmp_path) as site:
        started(site, ("n2",), "--runtime", "ai_edge_litert", coordinator=PATIENT)
        monkeypatch.setenv("PYTHONPATH", tired_runtime(tmp_path / "runtime", mark, 4))
        start_node(site, "n1", "--runtime", "ai_edge_litert")
        monkeypatch.delenv("PYTHONPATH")
        site.wait_ready(("n1", "n2"))
        with Wire(site) as wire:
            deploy(site, file, "faces", *ONE_TURN, "--pin", "s0=n1")
            # Where it runs is left to the plans from here on.
            site.json("node", "unpin", "faces", "s0")
            with Flow(site, file, limit=2) as flow:
                flow.passes()
                before = wire.plan().plan["slices"]
                assert "n1" in wire.nodes()
                mark.touch()
                flow.moves_on(MOVES)
                flow.passes()
                assert wire.plan().plan["slices"] != before
                assert wire.planning()["moved"].startswith("rebalanced: ")
                assert len(flow.revisions) == 2
