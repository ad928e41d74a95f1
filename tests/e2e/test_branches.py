"""Parallel branches on boards of their own: slices that are no runs of operators, joined by sequence number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from converters.codec_errors import through
from converters.graph import read_graph
from converters.runtime import feed
from converters.slicing import slice_model
from coordinator.planner.plan import bundles_of
from edge_node.runtime import open_interpreter
from emulator.site import Site
from slicemq.client import Pipeline
from tests.converters.tiny import diamond
from tests.e2e.scene import ONE_TURN, deploy

GROUPS = {"n1": [0, 1], "n2": [2], "n3": [3, 4]}


def test_two_branches_go_to_two_nodes(site: Site, tmp_path: Path) -> None:
    """tanh -> (relu, logistic) -> add -> add with the input: each branch beside the other, the ends on one node."""
    file, plan = tmp_path / "diamond.tflite", tmp_path / "plan.json"
    file.write_bytes(diamond())
    site.json("plan", "make", str(file), "--profile", "estimate", *ONE_TURN, "-o", str(plan))
    body = json.loads(plan.read_text())
    body.pop("bundles")
    body["slices"] = [
        {**body["slices"][0], "id": f"s{number}", "nodes": [node], "operators": operators}
        for number, (node, operators) in enumerate(GROUPS.items())
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


def test_slices_send_what_their_codecs_make_of_it(site: Site, tmp_path: Path) -> None:
    """The same branches with int8 and f16 between the slices: bit for bit what the codecs and the slices give."""
    data = diamond()
    file, plan = tmp_path / "packed.tflite", tmp_path / "plan.json"
    file.write_bytes(data)
    site.json("plan", "make", str(file), "--profile", "estimate", *ONE_TURN, "-o", str(plan))
    body = json.loads(plan.read_text())
    groups, sends = list(GROUPS.values()), ("int8", "f16", "raw")
    graph = read_graph(data)
    body["slices"] = [
        {**body["slices"][0], "id": f"s{number}", "nodes": [node], "operators": operators}
        for number, (node, operators) in enumerate(GROUPS.items())
    ]
    body["bundles"] = [
        {"id": b.id, "from": b.source, "to": list(b.targets), "tensors": list(b.tensors), "bytes": b.bytes}
        for b in bundles_of(graph, groups)
    ]
    for bundle in body["bundles"]:
        between = bundle["from"] != "client" and bundle["to"] != ["client"]
        bundle["codec"] = sends[int(bundle["from"][1:])] if between else "raw"
    plan.write_text(json.dumps(body))
    deploy(site, file, "packed", "--plan", str(plan))
    frames = [np.random.default_rng(seed).standard_normal((1, 4)).astype(np.float32) for seed in range(20)]
    expected = []
    chain = [(piece, open_interpreter(piece.data)) for piece in slice_model(data, graph, groups)]
    for frame in frames:
        values = {graph.inputs[0]: frame}
        for (piece, interpreter), codec in zip(chain, sends, strict=True):
            feed(interpreter, [values[t] for t in piece.inputs])
            interpreter.invoke()
            values.update({t: through(codec, interpreter.output(k)) for k, t in enumerate(piece.outputs)})
        expected.append(values[graph.outputs[0]].tobytes())
    with Pipeline("packed", site.options, cluster=site.cluster) as pipeline:
        answers = [next(iter(result.outputs.values())).tobytes() for result in pipeline.map(iter(frames))]
    site.json("undeploy", "packed")
    assert answers == expected
