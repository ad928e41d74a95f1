"""A frame that crashes whatever computes it, among good ones (rule 10)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slicemq.client import Pipeline
from tests.e2e.scene import PATIENT, Flow, answers, deploy, inputs, model, new_site, output_bytes, started
from tests.fragile import POISON, fragile_runtime

NODES = ("n1", "n2", "n3")
GOOD = 30


@pytest.mark.slow
def test_a_poison_frame_ends_as_poisoned_and_takes_no_node_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runtime").mkdir()
    monkeypatch.setenv("PYTHONPATH", fragile_runtime(tmp_path / "runtime"))
    file = model()
    good = [inputs(file)[number % 7] for number in range(GOOD)]
    poison = np.full_like(good[0], POISON)
    with new_site(tmp_path) as site:
        started(site, NODES, "--runtime", "ai_edge_litert", coordinator=PATIENT)
        deploy(site, file)
        with Pipeline("faces", site.options, cluster=site.cluster) as pipeline:
            results = list(pipeline.map([*good, poison, *good], limit=4, raise_errors=False))
        assert [one.sequence for one in results] == list(range(2 * GOOD + 1))
        bad = results.pop(GOOD)
        assert bad.error is not None
        assert bad.error.reason == "poisoned"
        assert [one.error for one in results] == [None] * (2 * GOOD)
        expected = [answers(file)[number % 7] for number in range(GOOD)] * 2
        assert [output_bytes(one) for one in results] == expected
        site.wait_ready(NODES)
        assert all(node.alive for node in site.nodes.values())
        crashes = sum("SIGSEGV" in line for name in NODES for line in site.nodes[name].log.read_text().splitlines())
        assert crashes >= 2
        with Flow(site, file) as flow:
            flow.passes()
