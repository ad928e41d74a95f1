"""Rollouts with real nodes: wrong golden results never flip, and what served goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from converters.graph import read_graph
from coordinator.revisions import specs
from edge_node.runtime import open_interpreter
from emulator.site import Site
from slicemq.messages import decode
from slicemq.operations import RolloutDocument
from slicemq.specs import tensor_keys
from tests.e2e.scene import PATIENT, STEADY, Flow, Wire, answers, deploy, inputs, model, new_site, started
from tests.e2e.test_deployments import with_other_weights
from tests.waiting import eventually


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Site]:
    with new_site(tmp_path / "site") as site:
        yield started(site, ("n1", "n2"), coordinator=PATIENT)


def rollouts(wire: Wire, name: str = "faces") -> RolloutDocument:
    topic = wire.topics.rollout(name)
    return decode(RolloutDocument, wire.documents[topic], topic)


@pytest.mark.slow
def test_a_model_that_gives_other_results_than_its_golden_file_never_serves(small: Site, tmp_path: Path) -> None:
    """Rule 11: a flip comes only after probe frames have left every output, with the results that are expected."""
    file = model()
    other = with_other_weights(file, tmp_path / "other.tflite")
    frame = inputs(file)[0]
    whole = open_interpreter(file)
    outputs = tuple(
        np.frombuffer(data, whole.outputs[k].dtype).reshape(whole.outputs[k].shape)
        for k, data in enumerate(answers(file)[0])
    )
    golden = tmp_path / "faces.npz"
    graph = read_graph(file.read_bytes())
    names = tensor_keys(specs(graph, graph.outputs))
    expected = {f"expect.{names[t]}": array for t, array in zip(graph.outputs, outputs, strict=True)}
    np.savez(golden, **{str(graph.inputs[0]): frame, **expected})
    first = deploy(small, file, "faces", *STEADY, "--golden", str(golden))
    with Wire(small) as wire, Flow(small, file) as flow:
        flow.passes()
        small.command("deploy", str(other), "--name", "faces", *STEADY, "--golden", str(golden))
        eventually(lambda: len(rollouts(wire).history) == 2, 30.0)
        ended = rollouts(wire).history[-1]
        assert ended.state == "rolled-back"
        assert "differs by" in ended.reason
        assert "at most 0.001 may be" in ended.reason
        flow.passes()
        assert flow.revisions == [first["revision"]]
