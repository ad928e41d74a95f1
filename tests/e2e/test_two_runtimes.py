"""One node with ai_edge_litert and one with tflite_runtime: mixed chains, and slices only where they run."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from benchmarks.far import FarRuntime
from benchmarks.mixed import NEW, OLD, SHARE, STEPS, TIMES, Apart, apart
from converters.graph import read_graph
from coordinator.actions import COARSE
from emulator.site import Site
from slicemq.client import Pipeline
from slicemq.messages import Capacity, decode
from tests.converters.test_lowering import two_layers
from tests.converters.tiny import Tiny
from tests.e2e.scene import Array, Wire, deploy, failing, model, new_site, start_node
from tests.runtimes import EACH_RUNTIME
from tests.waiting import eventually

pytestmark = list(EACH_RUNTIME[1].marks)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of the nodes `new` and `old`, named after their runtimes."""
    with new_site(tmp_path_factory.mktemp("mixed")) as site:
        site.start_coordinator()
        start_node(site, "new", "--runtime", NEW)
        start_node(site, "old", "--runtime", OLD)
        site.wait_ready(["new", "old"])
        yield site


def convolutions() -> bytes:
    """Six quantised convolutions, a scale for each filter."""
    rng = np.random.default_rng(11)
    tiny = Tiny()
    x = tiny.tensor((1, 12, 12, 8), "INT8", name="x", scale=(0.05,))
    tiny.inputs.append(x)
    for _ in range(6):
        scales = tuple(float(s) for s in rng.uniform(0.002, 0.02, 8))
        weights = tiny.buffer(rng.integers(-127, 128, (8, 3, 3, 8), np.int8).tobytes())
        filters = tiny.tensor((8, 3, 3, 8), "INT8", buffer=weights, scale=scales)
        bias = tiny.tensor(
            (8,),
            "INT32",
            buffer=tiny.buffer(rng.integers(-900, 900, 8, np.int32).tobytes()),
            scale=tuple(0.05 * s for s in scales),
        )
        made = tiny.tensor((1, 12, 12, 8), "INT8", scale=(0.05,))
        options = schema.Conv2DOptionsT(strideW=1, strideH=1)
        tiny.op("CONV_2D", [x, filters, bias], outputs=[made], options=options, version=3)
        x = made
    return tiny.build([x])


def wholes(runtime: str, file: Path, frames: Sequence[Array], outputs: int) -> list[list[Array]]:
    """What one device with a runtime gives."""
    with FarRuntime(runtime) as far:
        far.open("whole", file)
        return [far.run("whole", [frame], outputs) for frame in frames]


def through(site: Site, name: str, frames: Sequence[Array]) -> list[list[Array]]:
    """What the pipeline gives."""
    with Pipeline(name, site.options, cluster=site.cluster) as pipeline:
        return [list(result.outputs.values()) for result in pipeline.map(iter(frames))]


def within(chain: Sequence[Sequence[Array]], *answers: Sequence[Sequence[Array]]) -> bool:
    """Whether a chain is within the tolerance that docs/reference/models.md states."""
    for frame, one, other in zip(chain, *answers, strict=True):
        measure = apart(one, other)
        share, steps = max(SHARE, TIMES * measure.share), max(STEPS, TIMES * measure.steps)
        for found in (apart(one, frame), apart(other, frame)):
            if found.share > share or found.steps > steps:
                return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "first"), [("float32", "new"), ("int8", "old"), ("float32", "old"), ("int8", "new")]
)
def test_a_mixed_chain_is_within_the_tolerance(mixed: Site, tmp_path: Path, kind: str, first: str) -> None:
    rng = np.random.default_rng(2)
    frames: list[Array]
    if kind == "float32":
        file, last, outputs = model("basic-pitch"), 221, 3
        frames = [rng.standard_normal((1, 43844, 1)).astype(np.float32) for _ in range(3)]
    else:
        file, last, outputs = tmp_path / "convolutions.tflite", 5, 1
        file.write_bytes(convolutions())
        frames = [rng.integers(-128, 128, (1, 12, 12, 8), np.int8) for _ in range(3)]
    second = "old" if first == "new" else "new"
    name = f"{kind}-{first}"
    made = deploy(
        mixed, file, name, "--profile", "estimate", "--pin", f"0-0={first}", "--pin", f"{last}-{last}={second}"
    )
    assert [item["nodes"] for item in made["plan"]["slices"]] == [[first], [second]]
    answers = [wholes(runtime, file, frames, outputs) for runtime in (NEW, OLD)]
    chain = through(mixed, name, frames)
    mixed.json("undeploy", name)
    assert within(chain, *answers)
    assert all(np.ptp(array.astype(np.float64)) > 0 for frame in chain for array in frame)


def test_slices_go_only_where_their_operators_run(mixed: Site, tmp_path: Path) -> None:
    file = tmp_path / "layers.tflite"
    file.write_bytes(two_layers())
    with Wire(mixed) as wire:
        topics = {name: wire.topics.node(name, "capacity") for name in ("new", "old")}
        eventually(lambda: wire.documents.keys() >= set(topics.values()), 20.0)
        capacities = {name: decode(Capacity, wire.documents[topic], topic) for name, topic in topics.items()}
    assert capacities["new"].operators["FULLY_CONNECTED"] >= 12 > capacities["old"].operators["FULLY_CONNECTED"]
    shown = {row["node"]: row["operators"] for row in mixed.json("node", "list")["nodes"]}
    assert shown == {name: capacity.operators for name, capacity in capacities.items()}
    # The first layer needs FULLY_CONNECTED 12; the rest was lowered, and may go to the older runtime.
    made = deploy(mixed, file, "layers", "--profile", "estimate", "--pin", "2-2=old")
    assert [item["nodes"] for item in made["plan"]["slices"]] == [["new"], ["old"]]
    frames = [np.random.default_rng(seed).standard_normal((1, 4)).astype(np.float32) for seed in range(3)]
    (whole,) = [wholes(NEW, file, frames, 1)]
    assert within(through(mixed, "layers", frames), whole, whole)
    mixed.json("undeploy", "layers")
    # Whole models are written with the lowest versions too, and nowhere else than where they run.
    made = deploy(mixed, file, "layers-whole", "--profile", "estimate", "--max-slices", "1")
    assert [item["nodes"] for item in made["plan"]["slices"]] == [["new"]]
    mixed.json("undeploy", "layers-whole")
    said = failing(mixed, 21, "deploy", str(file), "--name", "nowhere", "--profile", "estimate", "--exclude", "new")
    assert "no node's runtime can run operator 0: FULLY_CONNECTED in version 12" in said
    assert "old: tflite_runtime takes up to version 10" in said


@pytest.mark.slow
def test_a_node_with_another_runtime_takes_over_although_its_results_differ_somewhat(tmp_path: Path) -> None:
    """Rule 11 holds a rollout to its golden frames; after a loss small differences are no reason to stand still."""
    file, golden = model("basic-pitch"), tmp_path / "pitch.npz"
    graph = read_graph(file.read_bytes())
    frame = np.random.default_rng(2).standard_normal((1, 43844, 1)).astype(np.float32)
    one, other = (wholes(runtime, file, [frame], 3)[0] for runtime in (NEW, OLD))
    assert 0 < apart(one, other).share < COARSE
    arrays: dict[str, Array] = {f"expect.{index}": array for index, array in zip(graph.outputs, one, strict=True)}
    arrays |= {str(graph.inputs[0]): frame, "tolerance": np.zeros(())}
    np.savez(golden, **arrays)
    words = ("--profile", "estimate", "--shape", "one-node", "--golden", str(golden))
    with new_site(tmp_path / "site") as site:
        site.start_coordinator()
        start_node(site, "new", "--runtime", NEW)
        site.wait_ready(["new"])
        deploy(site, file, "pitch", *words)
        start_node(site, "old", "--runtime", OLD)
        site.wait_ready(["old"])
        site.nodes["new"].signal(signal.SIGKILL)
        with Wire(site) as wire:
            eventually(lambda: wire.state("pitch") == "running" and wire.nodes("pitch") == ["old"], 60.0)
            assert apart(through(site, "pitch", [frame])[0], other) == Apart()
        assert site.coordinator is not None
        log = site.coordinator.log.read_text()
        assert "from its golden frame, more than 0; it serves, for nothing else does" in log
