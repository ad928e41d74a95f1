"""Parallel branches on boards of their own: slices that are no runs of operators, joined by sequence number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edge_node.runtime import open_interpreter
from emulator.site import Site
from slicemq.client import Pipeline
from tests.converters.tiny import diamond
from tests.e2e.scene import deploy


def test_two_branches_go_to_two_nodes(site: Site, tmp_path: Path) -> None:
    """tanh -> (relu, logistic) -> add -> add with the input: each branch beside the other, the ends on one node."""
    file, plan = tmp_path / "diamond.tflite", tmp_path / "plan.json"
    file.write_bytes(diamond())
    site.json("plan", "make", str(file), "--profile", "estimate", "-o", str(plan))
    body = json.loads(plan.read_text())
    body.pop("bundles")
    groups = {"n1": [0, 1], "n2": [2], "n3": [3, 4]}
    body["slices"] = [
        {**body["slices"][0], "id": f"s{number}", "nodes": [node], "operators": operators}
        for number, (node, operators) in enumerate(groups.items())
    ]
    plan.write_text(json.dumps(body))
    made = deploy(site, file, "diamond", "--plan", str(plan))
    # The first branch and the input reach the last slice directly, past the second branch.
    between = [(bundle["from"], bundle["to"]) for bundle in made["plan"]["bundles"]]
    assert between == [("client", ["s0", "s2"]), ("s0", ["s1"]), ("s0", ["s2"]), ("s1", ["s2"]), ("s2", ["client"])]
    whole = open_interpreter(file)
    frames = [np.random.default_rng(seed).standard_normal((1, 4)).astype(np.float32) for seed in range(30)]
    expected = []
    for frame in frames:
        whole.set_input(0, frame)
        whole.invoke()
        expected.append(whole.output(0).tobytes())
    with Pipeline("diamond", site.options, cluster=site.cluster) as pipeline:
        answers = [next(iter(result.outputs.values())).tobytes() for result in pipeline.map(iter(frames))]
    site.json("undeploy", "diamond")
    assert answers == expected
