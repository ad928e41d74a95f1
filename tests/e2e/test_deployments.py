"""Deploying again, deploying another model under a running name, and ending a pipeline with clients on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.site import Site
from slicemq.client import Pipeline
from slicemq.errors import FrameFailedError, PipelineError
from slicemq.messages import Report, decode
from tests.e2e.scene import STEADY, Flow, Wire, answers, deploy, failing, inputs
from tests.waiting import eventually


def with_other_weights(file: Path, to: Path) -> Path:
    """The same architecture and specification, with the largest weight buffer's values changed."""
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(file.read_bytes())
    packed = schema.Model.GetRootAsModel(bytes(data), 0)
    buffers = [packed.Buffers(i) for i in range(packed.BuffersLength())]
    largest = max((buffer.DataAsNumpy().tobytes() for buffer in buffers if buffer.DataLength()), key=len)
    at = data.find(largest)
    for position in range(at, at + len(largest), 2):
        data[position] ^= 0x40
    to.write_bytes(data)
    assert answers(to) != answers(file)
    return to


def test_the_same_model_again_changes_nothing(site: Site, wire: Wire, undisturbed: Flow, faces: Path) -> None:
    again = deploy(site, faces, "faces", *STEADY)
    assert again["unchanged"]
    assert again["running"]
    undisturbed.passes()
    assert undisturbed.revisions == [again["revision"]]


@pytest.mark.slow
def test_another_model_under_the_same_name(site: Site, faces: Path, tmp_path: Path) -> None:
    other = with_other_weights(faces, tmp_path / "other.tflite")
    deploy(site, faces, "hot")
    with Flow(site, faces, other, name="hot") as flow:
        flow.passes()
        assert flow.by_model[1] == 0
        made = deploy(site, other, "hot")
        assert not made["unchanged"]
        eventually(lambda: flow.revisions[-1] == made["revision"], 30.0)
        flow.passes(60)
        # Whatever of the old revision was under way has been answered by it, whole; then only the new one answers.
        old = flow.by_model[0]
        flow.passes(20)
        assert flow.by_model[0] == old
        back = deploy(site, faces, "hot")
        assert int(back["revision"].partition("-")[0]) > int(made["revision"].partition("-")[0])
        flow.passes()
    site.json("undeploy", "hot")


@pytest.mark.slow
def test_undeploy_while_clients_are_connected(site: Site, wire: Wire, faces: Path, undisturbed: Flow) -> None:
    deploy(site, faces, "brief")
    with Pipeline("brief", site.options, cluster=site.cluster) as pipeline:
        assert pipeline.infer(inputs(faces)[0], timeout=30.0).error is None
        assert site.json("undeploy", "brief") == {"name": "brief", "state": "removed"}
        eventually(lambda: wire.state("brief") == "removed")
        with pytest.raises((PipelineError, FrameFailedError), match=r"removed|undeployed"):
            pipeline.infer(inputs(faces)[0], timeout=30.0)
    eventually(lambda: all(revisions_of("brief", wire, node) == [] for node in site.nodes))
    assert "brief" in failing(site, 61, "undeploy", "brief")
    assert "removed" in failing(site, 61, "bench", "brief", "--frames", "1")


def revisions_of(name: str, wire: Wire, node: str) -> list[str]:
    topic = wire.topics.node(node, "report")
    return [one.revision for one in decode(Report, wire.documents[topic], topic).slices if one.pipeline == name]


def test_a_name_that_is_not_there(site: Site) -> None:
    text = failing(site, 61, "bench", "nobody", "--frames", "1")
    assert "'nobody'" in text
    assert "faces" in text
