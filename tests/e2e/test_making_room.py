"""Two nodes with memory for one revision at a time: the next one takes its place, and no frame is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from slicemq.messages import PipelineDocument, decode
from tests.e2e.scene import LARGER, STEADY, Flow, Wire, deploy, failing, model, new_site, room_for, started
from tests.e2e.test_deployments import with_other_weights

ROOM_MB = 13


def reasons(wire: Wire) -> list[str]:
    """What the pipeline's documents said, in their order, of its state and the reason."""
    topic = wire.topics.pipeline("faces")
    documents = [
        decode(PipelineDocument, payload, topic) for one, payload in wire.heard if one == topic and payload
    ]
    return [f"{document.state}: {document.reason}" for document in documents]


@pytest.mark.slow
def test_a_new_version_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    """Rule 13: paused with the stated plan, unloaded, loaded, probed, flipped."""
    file = model(LARGER)
    other = with_other_weights(file, tmp_path / "other.tflite")
    with new_site(tmp_path / "site") as site, Wire(started(site, ("n1", "n2"), *room_for(ROOM_MB))) as wire:
        assert deploy(site, file, "faces", *STEADY)["running"]
        with Flow(site, file, other) as flow:
            flow.passes(10)
            assert "needs" in failing(site, 21, "deploy", str(other), "--name", "faces", *STEADY, "--no-make-room")
            flow.passes(10)
            assert flow.by_model[1] == 0
            made = deploy(site, other, "faces", *STEADY)
            assert made["running"]
            flow.passes(30)
            assert flow.revisions[-1] == made["revision"]
            assert flow.by_model[1] > 0
        told = reasons(wire)
        assert any(text.startswith(f"paused: making room: {made['revision']}") for text in told)
        assert not any("abandoned" in text for text in told)
        assert {revision for node in ("n1", "n2") for revision, _ in wire.held(node)} == {made["revision"]}
