"""The experiment of arXiv 2210.12219: models and costs as published, what is made of runs, and a tiny run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import placement_paper
from benchmarks.paper_costs import CONFIGURATIONS, MB, chain, costs_of, link_rates, places, published_cuts
from benchmarks.paper_layers import MODELS, Layer, consumers, cut_points, read_layers
from benchmarks.paper_published import PUBLISHED
from benchmarks.placement_report import published_rows, summaries, text, verdicts
from benchmarks.placement_runs import Task, run
from coordinator.planner.answer import NoPlanError
from coordinator.planner.baselines import BASELINES
from coordinator.planner.baselines.min_sum import partition
from coordinator.planner.pairs.pairwise import solve
from coordinator.planner.problem import Costs

HERE = places(1, 0, 20)


def cuts(model: str, memory: int, only: tuple[int, ...] | None = None) -> list[str]:
    """The layers at which the least sum of transfers cuts, by their table."""
    arcs = partition(costs_of(model, "theirs", memory, HERE, only))
    return [chain(model, "theirs").names[j] for _, j in arcs[:-1]]


def exact(costs: Costs) -> float:
    """The least slowest hop: depth first over all arcs and unused nodes, cut off where the best is reached."""
    hops = costs.hops
    assert hops is not None
    fits = np.isfinite(costs.types[0].period)
    best = np.inf

    def go(state: int, node: int, used: frozenset[int], slowest: float) -> None:
        nonlocal best
        for end in np.flatnonzero(fits[state]).tolist()[::-1]:
            if end == costs.n:
                best = min(best, slowest)
                continue
            for other in range(len(costs.types)):
                if other in used:
                    continue
                taken = max(slowest, float(hops.bytes[end] / hops.rates[node, other]))
                if taken < best:
                    go(end, other, used | {other}, taken)

    for first in range(len(costs.types)):
        go(0, first, frozenset({first}), 0.0)
    return best


def test_the_cut_points_are_as_many_as_the_papers() -> None:
    assert {model: len(cut_points(read_layers(model))) for model in MODELS} == {
        "MobileNetV2": 76,
        "EfficientNetB1": 93,
        "ResNet50": 41,
        "InceptionResNetV2": 105,
    }


def test_cut_points_are_what_every_path_passes() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        size = int(rng.integers(2, 9))
        reads: list[tuple[int, ...]] = [()]
        for place in range(1, size):
            reads.append(tuple(sorted({int(p) for p in rng.integers(0, place, int(rng.integers(1, 3)))})))
        # One output: the last layer reads whatever nobody reads.
        read = {source for row in reads for source in row}
        reads.append(tuple(place for place in range(size) if place not in read))
        layers = [Layer(str(place), row, 1, 0) for place, row in enumerate(reads)]

        def paths(place: int, rows: list[tuple[int, ...]] = reads) -> list[frozenset[int]]:
            if place == 0:
                return [frozenset({0})]
            return [path | {place} for source in rows[place] for path in paths(source)]

        assert set(cut_points(layers)) == frozenset.intersection(*paths(size))


def test_parameters_are_those_of_the_models() -> None:
    assert sum(layer.parameters for layer in read_layers("ResNet50")) == 25_636_712
    assert sum(layer.parameters for layer in read_layers("MobileNetV2")) == 3_538_984


def test_a_fork_has_two_consumers() -> None:
    layers = read_layers("ResNet50")
    place = [layer.name for layer in layers].index("pool1_pool")
    assert consumers(layers)[place] == 2


def test_partitions_are_those_of_the_paper() -> None:
    assert cuts("ResNet50", 64) == ["pool1_pool", "conv3_block2_add", "conv5_block1_add"]
    assert cuts("ResNet50", 128) == ["conv4_block1_add"]
    parts = {(model, memory): len(cuts(model, memory)) + 1 for model, memory in CONFIGURATIONS}
    assert parts == {
        ("MobileNetV2", 64): 2,
        ("EfficientNetB1", 64): 3,
        ("EfficientNetB1", 128): 2,
        ("ResNet50", 64): 4,
        ("ResNet50", 128): 2,
        ("InceptionResNetV2", 64): 7,
        ("InceptionResNetV2", 128): 3,
        ("InceptionResNetV2", 256): 2,
    }


def test_published_partitions_keep_the_ends_of_the_least_memory() -> None:
    parts = {(model, memory): len(published_cuts(model, memory)) + 1 for model, memory in CONFIGURATIONS}
    assert parts["InceptionResNetV2", 128] == 5
    assert parts["InceptionResNetV2", 256] == 3
    for model, memory in CONFIGURATIONS:
        names = [chain(model, "theirs").names[cut] for cut in published_cuts(model, memory)]
        assert cuts(model, memory, published_cuts(model, memory)) == names
        if memory == 64:
            assert names == cuts(model, memory)


def test_transfers_are_charged_as_in_the_paper_and_as_they_are() -> None:
    at = [chain("ResNet50", "theirs").names.index(name) for name in cuts("ResNet50", 64)]
    charged = chain("ResNet50", "theirs").bytes[at] * 8 / MB
    real = chain("ResNet50", "true").bytes[at] * 8 / 1e6
    assert charged == pytest.approx([17.01, 17.01, 4.25], abs=0.005)
    assert real == pytest.approx([6.42, 12.85, 3.21], abs=0.005)


def test_true_memory_needs_more_nodes() -> None:
    def needed(model: str, memory: int) -> int:
        return len(partition(costs_of(model, "true", memory, HERE)))

    assert needed("ResNet50", 64) == 5
    assert needed("EfficientNetB1", 64) == 4
    assert [needed("InceptionResNetV2", memory) for memory in (64, 128, 256)] == [9, 5, 3]


def test_the_first_segment_is_free_in_their_table_only() -> None:
    theirs, true = chain("ResNet50", "theirs"), chain("ResNet50", "true")
    assert all(theirs.fits(0.001)[s, s + 1] for s in range(theirs.n))
    assert not any(true.fits(0.001)[s, s + 1] for s in range(true.n - 1))
    assert true.fits(1e6)[0, true.n]


def test_links_follow_the_formula() -> None:
    rates = link_rates(np.array([[1.0, 1.0], [4.0, 5.0]]), "true")
    assert rates[0, 1] == rates[1, 0] == pytest.approx(np.log2(1 + 283230 / 25) * 1e6 / 8)
    assert rates[0, 0] == 0.0
    where = np.concatenate([places(3, graph, 50) for graph in range(20)])
    assert where.min() >= 1.0
    assert where.max() <= 150.0
    assert where.mean() == pytest.approx(75.5, abs=3)
    assert (places(3, 1, 5) == places(3, 1, 5)).all()
    assert (places(3, 1, 5) != places(3, 2, 5)).any()


@pytest.mark.parametrize(("model", "memory"), [("ResNet50", 64), ("EfficientNetB1", 64)])
def test_our_planner_is_exact_and_no_baseline_is_better(model: str, memory: int) -> None:
    for table, seed in itertools.product(("theirs", "true"), range(2)):
        costs = costs_of(model, "theirs" if table == "theirs" else "true", memory, places(seed, 0, 5))
        best = exact(costs)
        found = solve(costs)
        assert found.period == pytest.approx(best, rel=1e-9)
        assert found.lower_bound == pytest.approx(best, rel=1e-9)
        for name, method in BASELINES.items():
            try:
                period = method(costs).period
            except NoPlanError:
                assert name in ("random", "defer", "seifer")
                continue
            assert period >= best * (1 - 1e-9)


def _ours(period: float | None, bound: float | None, proved: bool = True) -> dict[str, Any]:
    return {"period": period, "bound": bound, "method": "", "slices": 2, "proved": proved, "seconds": 0.1}


def _results(*graphs: tuple[dict[str, Any], float | None]) -> dict[Task, dict[str, Any]]:
    found: dict[Task, dict[str, Any]] = {}
    for graph, (ours, other) in enumerate(graphs):
        found[Task("ours", "theirs", "ResNet50", 64, 5, 0, graph)] = ours
        found[Task("others", "theirs", "ResNet50", 64, 5, 0, graph)] = {
            name: {"period": other, "seconds": 0.2} for name in BASELINES
        }
    return found


def test_means_are_geometric_and_failures_are_in_none() -> None:
    (one,) = summaries(_results((_ours(1.0, 1.0), 2.0), (_ours(1.0, 1.0), 8.0), (_ours(1.0, 1.0), None)))
    row = one["methods"]["greedy"]
    assert row["ratio_to_ours"] == pytest.approx(4.0)
    assert row["worst_ratio"] == 8.0
    assert (row["found"], row["failed"]) == (2, 1)
    assert verdicts([one], []) == []
    assert "4.000 (1 failed)" in text([one], [])


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ((_ours(1.01, 1.01), 1.0), "worse than a baseline 7 times"),
        ((_ours(None, None), 1.0), "worse than a baseline 7 times"),
        ((_ours(None, None, proved=False), None), "no plan found 1 times"),
        ((_ours(1.02, 1.0), 2.0), "certified gap of 2.00 %"),
    ],
)
def test_what_does_not_hold_is_said(graph: tuple[dict[str, Any], float | None], message: str) -> None:
    lines = verdicts(summaries(_results(graph)), [])
    assert len(lines) == 1
    assert message in lines[0]


def test_a_proof_that_there_is_no_plan_is_not_a_failure() -> None:
    found = summaries(_results((_ours(None, None), None)))
    assert verdicts(found, []) == []
    assert found[0]["infeasible"] == 1
    assert found[0]["methods"]["greedy"]["failed"] == 0
    assert "no plan exists" in text(found, [])


def test_another_set_up_is_said() -> None:
    task = Task("published", "theirs", "ResNet50", 64, 5, 0, 0)
    good = PUBLISHED["ResNet50", 64][5][1]
    for period, wrong in ((good * 1.04, 0), (good * 1.06, 1), (None, 1)):
        rows = published_rows(
            {task: {"greedy": {"period": period}, "seifer": {"period": None}, "drawn": None}},
        )
        assert rows[0]["seifer_failed"] == 1
        lines = verdicts([], rows)
        assert len(lines) == wrong
        assert not wrong or "the set-up is not the same within 5%" in lines[0]


def test_a_run_can_be_resumed_and_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--graphs", "2", "--published-graphs", "0", "--models", "MobileNetV2", "--nodes", "5"]
    arguments += ["--format", "json", "--jobs", "1", "--seed", "7", "--cache", str(tmp_path)]
    assert placement_paper.main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["configurations"]) == 2
    assert all(one["graphs"] == one["ours"]["found"] == 2 and not one["worse"] for one in first["configurations"])
    file = tmp_path / "7.jsonl"
    lines = file.read_text().splitlines()
    assert len(lines) == 8
    # One run that is lost, and one that was being written.
    file.write_text("\n".join(lines[:-2]) + "\n" + lines[-1][:20])
    assert placement_paper.main(arguments) == 0
    again = json.loads(capsys.readouterr().out)
    kept = [line for line in file.read_text().splitlines() if len(line) > 20]
    assert sorted(json.loads(line)["task"] for line in kept) == sorted(json.loads(line)["task"] for line in lines)
    for one, other in zip(first["configurations"], again["configurations"], strict=True):
        assert one["ours"]["mean_s"] == other["ours"]["mean_s"]
        assert {n: r["mean_s"] for n, r in one["methods"].items()} == {
            n: r["mean_s"] for n, r in other["methods"].items()
        }


def test_the_same_task_has_the_same_result() -> None:
    for kind in ("others", "published"):
        task = Task("others" if kind == "others" else "published", "theirs", "ResNet50", 64, 5, 3, 1)
        first, second = run(task), run(task)
        for name in first:
            one, other = first[name], second[name]
            assert one == other if name == "drawn" else one["period"] == other["period"]


@pytest.mark.parametrize(
    "wrong", [["--models", "VGG16"], ["--nodes", "7"], ["--tables", "x"], ["--graphs", "0"], ["--seed", "-1"]]
)
def test_wrong_options_are_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        placement_paper.main(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_the_page_keeps_what_is_around_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "images" / "picture.png"
    page.write_text(f"before\n{placement_paper.BEGIN}\nold\n{placement_paper.END}\nafter\n")
    monkeypatch.setattr(placement_paper, "PAGE", page)
    monkeypatch.setattr(placement_paper, "PICTURE", picture)
    arguments = ["--graphs", "1", "--published-graphs", "0", "--models", "MobileNetV2", "--nodes", "5"]
    arguments += ["--jobs", "1", "--tables", "theirs", "--cache", str(tmp_path), "--write"]
    assert placement_paper.main(arguments) == 0
    written = page.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "| MobileNetV2 64 | 5 |" in written
    assert "old" not in written
    assert picture.read_bytes().startswith(b"\x89PNG")
