"""`node drain`, `undrain`, `pin`, `unpin` and `forget` as operators type them, while frames flow."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.site import Site
from tests.e2e.scene import Flow, Wire, command, failing, json_of
from tests.waiting import eventually


@pytest.mark.slow
def test_a_node_is_emptied_and_used_again_without_a_frame_lost(site: Site, wire: Wire, faces: Path) -> None:
    """Rule 15: what was taken away is said explicitly; the verb returns when the node holds nothing."""
    with Flow(site, faces) as flow:
        flow.passes(5)
        node = wire.nodes()[0]
        drained = site.json("node", "drain", node)
        assert drained["state"] == "drained"
        assert node not in wire.nodes()
        assert wire.held(node) == {}
        (row,) = [row for row in site.json("node", "list")["nodes"] if row["node"] == node]
        assert row["draining"] is True
        assert row["slices"] == []
        assert "draining" in site.command("status").stdout
        assert "is alive" in failing(site, 41, "node", "forget", node)
        assert site.json("node", "undrain", node)["state"] == "undrained"
        eventually(lambda: not _draining(site, node))
        pinned = site.json("node", "pin", "faces", f"s0={node}")
        assert pinned["running"] is True
        assert wire.nodes()[0] == node
        assert site.json("node", "unpin", "faces", "s0")["running"] is True
        assert "has no pin" in failing(site, 41, "node", "unpin", "faces", "s0")
        flow.passes(20)


def test_verbs_of_what_is_not_there_say_so(site: Site) -> None:
    for verb in ("drain", "undrain", "forget"):
        assert "no node is called 'nobody'" in failing(site, 41, "node", verb, "nobody")
    assert "no pipeline is called" in failing(site, 61, "rollout", "status", "nothing")
    assert "no pipeline is called" in failing(site, 61, "node", "pin", "nothing", "s0=n1")


def test_rollouts_are_shown_while_no_coordinator_is_there(site: Site, wire: Wire) -> None:
    """What is retained needs nobody to answer: another cluster on the broker has no coordinator."""
    options = ["--broker", site.broker.url, "--cluster", "empty"]
    done = command("rollout", "status", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no coordinator (none has ever been there)")
    assert json_of(command("rollout", "status", *options, "--format", "json"))["coordinator"] is None


def _draining(site: Site, node: str) -> bool:
    return any(row["draining"] for row in site.json("node", "list")["nodes"] if row["node"] == node)
