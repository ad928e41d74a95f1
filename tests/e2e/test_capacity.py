"""Not enough capacity: the pipeline pauses with a reason, holds frames, and goes on when a node is back."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from slicemq.client import Pipeline
from tests.e2e.scene import (
    LARGER,
    Wire,
    answers,
    deploy,
    failing,
    inputs,
    model,
    new_site,
    output_bytes,
    room_for,
    start_node,
    started,
)
from tests.waiting import eventually, never


@pytest.mark.slow
def test_pause_and_recovery(tmp_path: Path) -> None:
    file = model(LARGER)
    with new_site(tmp_path) as site, Wire(started(site, ["n1"], *room_for(13))) as wire:
        # One node is too small: nothing is deployed, and the numbers are said.
        text = failing(site, 21, "deploy", str(file), "--name", "faces")
        assert "not enough capacity" in text
        assert "MB" in text
        assert wire.pipeline() is None
        start_node(site, "n2", *room_for(13))
        site.wait_ready(["n2"])
        deploy(site, file)
        with Pipeline("faces", site.options, cluster=site.cluster) as pipeline:
            assert output_bytes(pipeline.infer(inputs(file)[0], timeout=30.0)) == answers(file)[0]
            site.nodes["n2"].signal(signal.SIGKILL)
            eventually(lambda: wire.state() == "paused", 30.0)
            eventually(lambda: "not enough capacity" in wire.reason(), 30.0)
            held = [pipeline.submit(array) for array in inputs(file)[: pipeline.stats.window]]
            never(lambda: pipeline.stats.answered > 1)
            start_node(site, "n2", *room_for(13))
            got = list(pipeline.results())
            assert [result.sequence for result in got] == held
            assert [output_bytes(result) for result in got] == list(answers(file)[: len(held)])
        eventually(lambda: wire.state() == "running", 10.0)
        assert wire.reason() == ""
