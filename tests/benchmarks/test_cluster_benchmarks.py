"""What the benchmarks on emulated clusters compute from what they measured: marks, ratios, kept rounds, latency."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import chain_runs, cluster_latency, many_nodes, marks, scaling, small_memory
from benchmarks.chain_runs import Case, Run, Summary, summarise
from benchmarks.energy_columns import against_one, joules
from benchmarks.frames_of import distance, frames_of
from benchmarks.kept import Kept, code_digest
from benchmarks.marks import Mark, all_held
from benchmarks.models import real_models
from benchmarks.pages import as_json, put, write_region
from benchmarks.rounds import Setting
from benchmarks.stages import Stage, stages
from converters.graph import read_graph
from converters.schema import open_model
from coordinator.cli import codec_tools
from emulator.figures import figures
from emulator.measure import Measured
from emulator.usage import NodeUse
from slicemq.errors import SliceMQError, StoreError
from slicemq.messages import SliceBeat


def run_of(nodes: int, rate: float, *, budget: float = 0.0, bound: float | None = None, error: float = 0.0) -> Run:
    stage = Stage("s0", "n1", 100.0, 1.0, 1.0, 0.1, 0.1, 90.0, 9.0, 0.1, 0.1, 0.0, 9.5, 0.95)
    return Run(
        model="resnet50",
        nodes=nodes,
        budget=budget,
        rate=rate,
        planned=rate,
        bound=bound or rate / 0.95,
        slices=nodes,
        used_nodes=nodes,
        family="contiguous-one-per-node",
        method="exact",
        codecs=("raw",),
        window=3,
        frames=50,
        latency_p50=100.0,
        latency_p95=150.0,
        error=error,
        stated=None,
        costs={
            "node_cpu_ms": {"n1": 10.0, "n2": 0.5},
            "node_bytes": {"n1": [1e6, 2e6], "n2": [0.0, 0.0]},
            "broker_cpu_ms": 1.0,
            "client_cpu_ms": 0.5,
            "idle": 0.5,
        },
        stages=(stage,),
    )


def test_a_mark_is_held_inside_its_limits_alone() -> None:
    assert Mark("rate", 3.5, least=3.5).held
    assert not Mark("rate", 3.49, least=3.5).held
    assert Mark("ms", 1.0, most=1.15).held
    assert not Mark("ms", 1.16, most=1.15).held
    assert not Mark("ms", float("nan"), most=1.15).held
    assert Mark("ms", None, most=1.0).words == "not measured"
    assert all_held([Mark("a", 1.0, least=1), Mark("b", None, least=1)])
    assert not all_held([Mark("a", 1.0, least=1), Mark("b", 0.5, least=1)])
    assert not all_held([Mark("b", None, least=1)])
    assert "| b | 0.5 | at least 1 | missed |" in marks.table([Mark("b", 0.5, least=1)])


def test_rows_are_found_again_by_what_was_measured_and_by_the_code(tmp_path: Path) -> None:
    kept = Kept("x", folder=tmp_path, digest="a")
    assert kept.get({"nodes": 4}) is None
    kept.add({"nodes": 4}, {"rate": 1.5})
    with kept.file.open("a") as file:
        file.write('{"key": {"nodes": 5}, "ro')
    again = Kept("x", folder=tmp_path, digest="a")
    assert again.get({"nodes": 4}) == {"rate": 1.5}
    assert again.get({"nodes": 5}) is None
    assert Kept("x", folder=tmp_path, digest="b").get({"nodes": 4}) is None
    fresh = Kept("x", folder=tmp_path, digest="a", fresh=True)
    assert fresh.get({"nodes": 4}) is None
    fresh.add({"nodes": 4}, {"rate": 2.0})
    assert Kept("x", folder=tmp_path, digest="a").get({"nodes": 4}) == {"rate": 2.0}


def test_the_digest_follows_the_code(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("x = 1\n")
    before = code_digest(tmp_path, ("room",))
    code_digest.cache_clear()
    (tmp_path / "room" / "a.py").write_text("x = 2\n")
    assert code_digest(tmp_path, ("room",)) != before


def test_a_region_of_a_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert put(page, "x", "new\nlines\n") == "a\n<!-- x -->\nnew\nlines\n<!-- /x -->\nb\n"
    with pytest.raises(StoreError, match="region y"):
        put(page, "y", "new")
    with pytest.raises(StoreError, match="region x"):
        put(page + page, "x", "new")
    file = tmp_path / "page.md"
    with pytest.raises(StoreError, match=r"page\.md"):
        write_region("x", "new", file)
    file.write_text(page)
    write_region("x", "new", file)
    assert "new" in file.read_text()


def test_json_has_null_for_what_was_not_measured() -> None:
    body = json.loads(as_json({"a": [1.5, float("nan")], "b": (float("inf"), 2, "x", None)}))
    assert body == {"a": [1.5, None], "b": [None, 2, "x", None]}


def test_ratios_are_those_of_the_runs_of_one_round() -> None:
    # The second round ran while the machine was twice as slow: the ratios stay.
    rounds = [[run_of(1, 1.0), run_of(4, 3.6)], [run_of(1, 0.5), run_of(4, 1.9)], [run_of(1, 1.0), run_of(4, 3.4)]]
    one, four = summarise(rounds)
    assert one.ratio == 1.0
    assert four.ratio == pytest.approx(3.6)
    assert four.rate == pytest.approx(3.4)
    assert four.to_bound == pytest.approx(0.95)
    assert four.cpu_ms == 10.0
    assert four.bytes == 3e6
    with pytest.raises(SliceMQError, match="1 node"):
        summarise([[run_of(4, 3.6)]])
    with pytest.raises(SliceMQError, match="4 nodes"):
        summarise([rounds[0], [run_of(1, 1.0)]])


def test_a_round_is_the_same_after_it_was_kept() -> None:
    run = run_of(8, 6.1, budget=0.02)
    assert Run.from_plain(json.loads(json.dumps(run.to_plain()))) == run
    assert run.case == Case("resnet50", 8, 0.02)
    assert run.case.pipeline == "resnet50-8-codecs"


def test_the_marks_of_scaling() -> None:
    rounds = [
        [run_of(1, 1.0), run_of(4, 3.6), run_of(8, 5.9), run_of(8, 6.6, budget=0.02, error=0.03)],
    ]
    found = {mark.name: mark for mark in scaling.judge("resnet50", 1000, summarise(rounds))}
    assert found["resnet50, 4 nodes, lossless, 1000 Mbit/s: times one node"].held
    assert not found["resnet50, 8 nodes, lossless, 1000 Mbit/s: times one node"].held
    assert found["resnet50, 8 nodes, codecs within 0.02, 1000 Mbit/s: times one node"].held
    assert not found["resnet50, 8 nodes, codecs within 0.02, 1000 Mbit/s: error"].held
    assert found["resnet50, 4 nodes, lossless, 1000 Mbit/s: share of the bound"].least == 0.92
    slow = {mark.name: mark for mark in scaling.judge("resnet50", 100, summarise(rounds))}
    assert slow["resnet50, 8 nodes, codecs within 0.02, 100 Mbit/s: times one node"].least == 5.0
    assert not any("times one node" in mark.name for mark in scaling.judge("vgg16", 1000, summarise(rounds)))


def test_a_rate_far_above_its_bound_shows_wrong_costs() -> None:
    rows = summarise([[run_of(1, 1.0), run_of(8, 7.0, bound=6.0)]])
    missed = [mark for mark in scaling.judge("resnet50", 1000, rows) if not mark.held]
    assert [mark.name for mark in missed] == ["resnet50, 8 nodes, lossless, 1000 Mbit/s: share of the bound"]
    assert "at least 0.92, at most 1.1 | missed" in marks.table(missed)


def test_a_lossless_answer_that_differs_misses_its_mark() -> None:
    rows = summarise([[run_of(1, 1.0), run_of(4, 3.6, error=1e-7)]])
    missed = [mark.name for mark in scaling.judge("resnet50", 1000, rows) if not mark.held]
    assert missed == ["resnet50, 4 nodes, lossless, 1000 Mbit/s: error"]


def test_each_link_has_its_configurations() -> None:
    names = [case.pipeline for case in scaling.cases_of("vgg16", 100, 0.01)]
    assert names == ["vgg16-1", "vgg16-8", "vgg16-8-codecs"]
    assert len(scaling.cases_of("resnet50", 1000, 0.01)) == 5


def test_a_step_that_falls_by_more_than_three_per_cent_is_missed() -> None:
    rates = {1: 1.0, 2: 1.9, 4: 3.6, 8: 3.5, 12: 3.3}
    found = many_nodes.judge(summarise([[run_of(nodes, rate) for nodes, rate in rates.items()]]))
    assert [mark.name for mark in found if not mark.held] == ["12 nodes over 8"]


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    many_nodes.draw(summarise([[run_of(1, 1.0), run_of(2, 1.9)]]), tmp_path / "x.png", 0.05)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_energy_of_a_node_falls_with_the_time_of_a_frame() -> None:
    one, two = summarise([[run_of(1, 1.0), run_of(2, 2.0)]])
    # 10 ms of processor at a tenth of a core are 100 ms busy; 3 MB were moved.
    assert joules(one, 0.1) == pytest.approx(2.7 + 3.7 * 0.1 + 0.03)
    assert joules(two, 0.1) == pytest.approx(1.35 + 3.7 * 0.1 + 0.03)
    assert against_one(two, one, 0.1) == "-44 %"


def test_a_setting_is_the_same_key_whatever_is_only_how_it_is_run() -> None:
    setting = Setting("x", "resnet50", 1000, 0.1, 12.0, repeats=3)
    cases = [Case("resnet50", 1)]
    assert setting.key(cases, 0) == replace(setting, repeats=5, fresh=True).key(cases, 0)
    assert setting.key(cases, 0) != setting.key(cases, 1)
    assert setting.key(cases, 0) != replace(setting, share=0.2).key(cases, 0)
    assert json.loads(json.dumps(setting.key(cases, 0))) == setting.key(cases, 0)
    assert setting.seconds_of(Case("resnet50", 1)) > setting.seconds_of(Case("resnet50", 8))


def test_cases_with_a_budget_are_measured_on_more_frames_than_are_compared(tmp_path: Path) -> None:
    model = real_models()["face-short-range"]
    if not model.path.is_file():
        pytest.skip(model.hint)
    cluster = SimpleNamespace(folder=tmp_path)
    case = Case(model.name, 4, 0.02)
    chain_runs.write_calibration(cluster, model)
    words = chain_runs._wishes(cluster, case, 8)
    folder = Path(words[words.index("--calibration") + 1])
    frames = codec_tools.frames_of(read_graph(open_model(model.path)), folder)
    assert len(frames) == chain_runs.CALIBRATION_FRAMES
    for frame, compared in zip(frames, frames_of(model), strict=False):
        assert frame.keys() == compared.keys()
        assert all(np.array_equal(frame[t], compared[t]) for t in frame)
    lossless = Case(model.name, 4)
    assert "--calibration" not in chain_runs._wishes(cluster, lossless, 8)
    setting = Setting("x", model.name, 1000, 0.1, 12.0, repeats=3)
    assert "calibration" in setting.key([lossless, case], 0)
    assert "calibration" not in setting.key([lossless], 0)


def test_costs_are_those_of_a_frame() -> None:
    use = {"n1": NodeUse(cpu=2.0, sent=8e6, received=4e6)}
    measured = Measured(0.0, 10.0, 3, replace(figures([], 0.0, 1.0), frames=20), (), use, 0.1, 0.2, 0.4)
    found = chain_runs.costs(measured)
    assert found["node_cpu_ms"] == {"n1": pytest.approx(100.0)}
    assert found["node_bytes"] == {"n1": [pytest.approx(4e5), pytest.approx(2e5)]}
    assert found["broker_cpu_ms"] == pytest.approx(5.0)
    assert found["idle"] == 0.4


def test_a_stage_has_the_later_heartbeats_of_its_run() -> None:
    plan = {
        "slices": [
            {"id": "s0", "nodes": ["n1"], "compute_ms": 120.0},
            {"id": "s1", "nodes": ["n2"], "compute_ms": 1.0},
        ]
    }
    beats = [
        SliceBeat("p", "1-00000000", "s0", "up", invoke_ms=ms, waiting=0.2) for ms in (50.0, 50.0, 90.0, 110.0)
    ]
    first, second = stages(plan, {("s0", "n1"): beats}, {"n1": 9.0, "n2": 1.0}, rate=10.0, share=0.1)
    assert first.invoke == pytest.approx(100.0)
    assert first.waiting == pytest.approx(200.0)
    assert first.used == pytest.approx(0.9)
    assert math.isnan(second.invoke)
    assert Stage.from_plain(first.to_plain()) == first


def test_the_distance_is_zero_only_for_equal_bits() -> None:
    wanted = {7: np.array([1.0, -4.0], np.float32)}
    assert distance({7: np.array([1.0, -4.0], np.float32)}, wanted) == 0.0
    assert distance({7: np.array([1.0, -3.0], np.float32)}, wanted) == pytest.approx(0.25)
    assert distance({7: np.array([np.nan, -4.0], np.float32)}, wanted) == float("inf")
    assert distance({7: np.array([1.0], np.float32)}, wanted) == float("inf")
    assert distance({7: np.array([-0.0], np.float32)}, {7: np.array([0.0], np.float32)}) > 0


PLAN = {
    "window": 4,
    "slices": [
        {"id": "s0", "nodes": ["n1"], "bytes_out": 9},
        {"id": "s1", "nodes": ["n2"], "bytes_out": 9},
        {"id": "s2", "nodes": ["n3"], "bytes_out": 9},
    ],
    "bundles": [
        {"id": "b0", "from": "client", "to": ["s0"], "bytes": 100},
        {"id": "b1", "from": "s0", "to": ["s1"], "bytes": 200},
        {"id": "b2", "from": "s0", "to": ["s2"], "bytes": 300},
        {"id": "b3", "from": "s1", "to": ["s2"], "bytes": 400},
        {"id": "b4", "from": "s2", "to": ["client"], "bytes": 9},
    ],
}


def test_the_slowest_way_through_slices_and_hops() -> None:
    invokes = {"s0": 10.0, "s1": 5.0, "s2": 20.0}
    hops = {"b0": 1.0, "b1": 2.0, "b2": 3.0, "b3": 4.0, "result": 0.5}
    assert cluster_latency.slowest_way(PLAN, invokes, hops) == pytest.approx(1 + 10 + 2 + 5 + 4 + 20 + 0.5)
    # A bundle that skips a slice counts when it comes last.
    assert cluster_latency.slowest_way(PLAN, invokes, hops | {"b2": 30.0}) == pytest.approx(1 + 10 + 30 + 20 + 0.5)


def test_the_hops_of_a_chain_end_where_bundles_are_received() -> None:
    hops = [(hop.name, hop.node, hop.bytes) for hop in cluster_latency.hops_of(PLAN)]
    assert hops == [("b0", "n1", 100), ("b1", "n2", 200), ("b2", "n3", 300), ("b3", "n3", 400), ("result", "n3", 9)]


def test_latency_is_judged_round_by_round() -> None:
    hops = {"b0": 1.0, "b1": 2.0, "b2": 3.0, "b3": 4.0, "result": 1.0}
    invokes = {"s0": 30.0, "s1": 30.0, "s2": 32.0}
    tried = cluster_latency.windows(4)
    assert tried == [1, 2, 3, 4, 5, 6, 8]
    rates = {w: min(w, 4) * 2.4 for w in tried} | {8: 10.0}
    one = cluster_latency.Round(110.0, invokes, hops, rates, dict.fromkeys(tried, 200.0), 0.5)
    again = cluster_latency.Round.from_plain(json.loads(json.dumps(one.__dict__)))
    assert again == one
    found = cluster_latency.judge(PLAN, [one])
    assert found.bare == pytest.approx(100.0)
    assert [mark.words for mark in found.marks()] == ["held", "held", "held"]
    slow = replace(one, unloaded=116.0, tails=dict.fromkeys(tried, 300.0), rates=rates | {8: 10.2})
    assert [mark.words for mark in cluster_latency.judge(PLAN, [slow]).marks()] == ["missed", "missed", "missed"]


def test_small_memory_asks_for_equal_answers_and_a_killed_whole() -> None:
    finding = small_memory.Finding(
        "resnet50", 128.0, 5, 5, 2.0, 30, 0.0, {"n1": 120.0}, {"n1": 30.0}, 0, "no plan fits", 1
    )
    assert all(mark.held for mark in finding.marks())
    for change in ({"error": 1e-9}, {"killed": 1}, {"refused": ""}, {"alone_killed": 0}):
        assert sum(not mark.held for mark in replace(finding, **change).marks()) == 1
    text = small_memory.tell(finding, finding.marks())
    assert "| n1 | 30.0 | 120.0 |" in text


def test_summaries_name_their_configuration() -> None:
    (one,) = summarise([[run_of(1, 1.0)]])
    assert isinstance(one, Summary)
    assert one.case.words == "resnet50, 1 node, lossless"
