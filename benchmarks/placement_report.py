"""What the runs of `benchmarks.placement_paper` say: figures per configuration, verdicts, tables and a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper_costs import CONFIGURATIONS, NODES, TABLES
from benchmarks.paper_published import PUBLISHED
from benchmarks.placement_runs import Task

Summary = dict[str, Any]
Results = Mapping[Task, Mapping[str, Any]]
METHODS = ("greedy", "seifer", "random", "defer", "pipeedge", "dnnpipe", "coral")
_STYLES = {
    "greedy": "^-",
    "seifer": "s-",
    "dnnpipe": "--",
    "pipeedge": ":",
    "coral": ":",
    "random": "-.",
    "defer": "-.",
}
EXACTLY = 1e-9
GREEDY_WITHIN = 0.05
GAPS = {5: 0.01, 10: 0.01, 15: 0.01, 20: 0.01, 50: 0.02}
"""The largest certified gap that is accepted, by the number of nodes."""


def geometric_mean(values: Sequence[float]) -> float | None:
    """None of no values."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def mean(values: Sequence[float]) -> float | None:
    """None of no values."""
    return sum(values) / len(values) if values else None


def summaries(results: Results) -> list[Summary]:
    """One entry for each configuration (table, model, memory, nodes) that was run."""
    pairs: dict[tuple[str, str, int, int], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for task, ours in results.items():
        if task.kind == "ours":
            others = results[Task("others", task.table, task.model, task.memory, task.nodes, task.seed, task.graph)]
            pairs.setdefault((task.table, task.model, task.memory, task.nodes), []).append((ours, others))
    order = {(t, m, mb, n): place for place, (t, (m, mb), n) in enumerate(_all())}
    return [_summary(key, pairs[key]) for key in sorted(pairs, key=lambda key: order[key])]


def _all() -> list[tuple[str, tuple[str, int], int]]:
    return [(table, chosen, nodes) for table in TABLES for chosen in CONFIGURATIONS for nodes in NODES]


def _summary(
    key: tuple[str, str, int, int], pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Summary:
    solved = [(ours, others) for ours, others in pairs if ours["period"] is not None]
    gaps = [ours["period"] / ours["bound"] - 1.0 for ours, _ in solved]
    found: Summary = {
        "table": key[0],
        "model": key[1],
        "memory_mb": key[2],
        "nodes": key[3],
        "graphs": len(pairs),
        "infeasible": sum(ours["period"] is None and ours["proved"] for ours, _ in pairs),
        "ours": {
            "found": len(solved),
            "failed": sum(ours["period"] is None and not ours["proved"] for ours, _ in pairs),
            "mean_s": mean([ours["period"] for ours, _ in solved]),
            "ratio_to_bound": geometric_mean([ours["period"] / ours["bound"] for ours, _ in solved]),
            "largest_gap": max(gaps, default=0.0),
            "seconds": mean([ours["seconds"] for ours, _ in pairs]),
            "most_seconds": max(ours["seconds"] for ours, _ in pairs),
            "slices": mean([ours["slices"] for ours, _ in solved]),
        },
        "worse": 0,
        "methods": {},
    }
    for name in METHODS:
        answered = [(ours, others[name]["period"]) for ours, others in solved]
        both = [(o["period"], period, o["bound"]) for o, period in answered if period is not None]
        found["methods"][name] = {
            "found": len(both),
            "failed": len(solved) - len(both),
            "mean_s": mean([theirs for _, theirs, _ in both]),
            "ratio_to_ours": geometric_mean([theirs / ours for ours, theirs, _ in both]),
            "ratio_to_bound": geometric_mean([theirs / bound for _, theirs, bound in both]),
            "worst_ratio": max((theirs / ours for ours, theirs, _ in both), default=None),
            "seconds": mean([b[name]["seconds"] for _, b in pairs]),
        }
        found["worse"] += sum(ours > theirs * (1 + EXACTLY) for ours, theirs, _ in both)
        # A plan where we have none at all.
        found["worse"] += sum(o["period"] is None and b[name]["period"] is not None for o, b in pairs)
    return found


def published_rows(results: Results) -> list[Summary]:
    """Our re-run of the published set-up beside the published figures, one entry for each configuration."""
    runs: dict[tuple[str, int, int], list[Mapping[str, Any]]] = {}
    for task, result in results.items():
        if task.kind == "published":
            runs.setdefault((task.model, task.memory, task.nodes), []).append(result)
    rows = []
    for (model, memory, nodes), several in runs.items():
        kpath, greedy, random = PUBLISHED[model, memory][nodes]
        rows.append(
            {
                "model": model,
                "memory_mb": memory,
                "nodes": nodes,
                "graphs": len(several),
                "greedy_s": mean(_known(one["greedy"]["period"] for one in several)),
                "seifer_s": mean(_known(one["seifer"]["period"] for one in several)),
                "seifer_failed": sum(one["seifer"]["period"] is None for one in several),
                "random_s": mean(_known(one["drawn"] for one in several)),
                "published": {"seifer_s": kpath, "greedy_s": greedy, "random_s": random},
            }
        )
    return rows


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def verdicts(found: Iterable[Summary], published: Iterable[Summary]) -> list[str]:
    """What does not hold, a line each: empty when everything does."""
    lines = []
    for one in found:
        what = f"{one['table']} {one['model']} {one['memory_mb']} MB, {one['nodes']} nodes"
        if one["worse"]:
            lines.append(f"{what}: ours is worse than a baseline {one['worse']} times")
        if one["ours"]["failed"]:
            lines.append(
                f"{what}: no plan found {one['ours']['failed']} times, though not proved that there is none"
            )
        if one["ours"]["largest_gap"] > GAPS[one["nodes"]]:
            lines.append(f"{what}: a certified gap of {100 * one['ours']['largest_gap']:.2f} %")
    for row in published:
        ours, theirs = row["greedy_s"], row["published"]["greedy_s"]
        if ours is None or abs(ours / theirs - 1) > GREEDY_WITHIN:
            lines.append(
                f"{row['model']} {row['memory_mb']} MB, {row['nodes']} nodes: the greedy takes {_s(ours)} s here, "
                f"{theirs} s as published: the set-up is not the same within {GREEDY_WITHIN:.0%}"
            )
    return lines


def text(found: Sequence[Summary], published: Sequence[Summary]) -> str:
    """All tables, in Markdown."""
    parts = []
    for table in TABLES:
        chosen = [one for one in found if one["table"] == table and one["ours"]["found"]]
        if chosen:
            parts += [
                f"**Table of costs: {table}** ({chosen[0]['graphs']} graphs for each configuration)",
                _by_method(chosen),
                _by_configuration(chosen),
            ]
    without = [one for one in found if one["infeasible"] == one["graphs"]]
    if without:
        names = ", ".join(f"{one['model']} {one['memory_mb']} MB ({one['table']})" for one in without)
        parts.append(f"On {without[0]['nodes']} nodes no plan exists, which is proved, for: {names}.")
    if published:
        parts += [
            f"**The published figures, and the same set-up here** ({published[0]['graphs']} graphs)",
            _published(published),
        ]
    return "\n\n".join(parts)


def _by_method(chosen: Sequence[Summary]) -> str:
    """Over all configurations of a table of costs."""
    gap = max(one["ours"]["largest_gap"] for one in chosen)
    plans = sum(one["ours"]["found"] for one in chosen)
    seconds = mean([one["ours"]["seconds"] for one in chosen]) or 0.0
    most = max(one["ours"]["most_seconds"] for one in chosen)
    lines = [
        "| method | plans found | failed | ratio to ours | worst ratio | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| ours (bound within {100 * gap:.2f} %) | {plans} | 0 | 1 | 1 | {seconds:.3f} (at most {most:.2f}) |",
    ]
    for name in METHODS:
        rows = [one["methods"][name] for one in chosen]
        ratio = geometric_mean([row["ratio_to_ours"] for row in rows for _ in range(row["found"])])
        worst = max((row["worst_ratio"] for row in rows if row["found"]), default=None)
        lines.append(
            f"| {name} | {sum(row['found'] for row in rows)} | {sum(row['failed'] for row in rows)} | "
            f"{_ratio(ratio)} | {_ratio(worst)} | {mean([row['seconds'] for row in rows]) or 0.0:.3f} |"
        )
    return "\n".join(lines)


def _by_configuration(chosen: Sequence[Summary]) -> str:
    lines = [
        f"| model, MB | nodes | ours, s | its bound | {' | '.join(METHODS)} |",
        f"| --- | --- | --- | --- |{' --- |' * len(METHODS)}",
    ]
    for one in chosen:
        cells = [_cell(one["methods"][name]) for name in METHODS]
        lines.append(
            f"| {one['model']} {one['memory_mb']} | {one['nodes']} | {_s(one['ours']['mean_s'])} | "
            f"{_ratio(one['ours']['ratio_to_bound'])} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _published(rows: Sequence[Summary]) -> str:
    lines = [
        "| model, MB | nodes | greedy here, s | published | ratio | k-path here, s | published | failed | "
        "random here, s | published |",
        f"|{' --- |' * 10}",
    ]
    for row in rows:
        then = row["published"]
        lines.append(
            f"| {row['model']} {row['memory_mb']} | {row['nodes']} | {_s(row['greedy_s'])} | {then['greedy_s']} | "
            f"{_ratio(row['greedy_s'] and row['greedy_s'] / then['greedy_s'])} | {_s(row['seifer_s'])} | "
            f"{then['seifer_s']} | {row['seifer_failed']} of {row['graphs']} | {_s(row['random_s'])} | "
            f"{then['random_s']} |"
        )
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    if not row["found"]:
        return "all failed"
    return _ratio(row["ratio_to_ours"]) + (f" ({row['failed']} failed)" if row["failed"] else "")


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if value < 0.2 else f"{value:.3f}"


def plot(found: Sequence[Summary], file: Path) -> None:
    """Mean bottleneck seconds by nodes, a panel for each model and memory, with the paper's table of costs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 4, figsize=(14, 6), sharex=True)
    for panel, (model, memory) in zip(panels.flat, CONFIGURATIONS, strict=True):
        rows = [one for one in found if (one["table"], one["model"], one["memory_mb"]) == ("theirs", model, memory)]
        ours = [(one["nodes"], one["ours"]["mean_s"]) for one in rows if one["ours"]["found"]]
        panel.plot([x for x, _ in ours], [y for _, y in ours], "-", color="0.6", linewidth=5, label="ours")
        for name, style in _STYLES.items():
            found_by = [one for one in rows if one["methods"][name]["found"]]
            panel.plot(
                [one["nodes"] for one in found_by],
                [one["methods"][name]["mean_s"] for one in found_by],
                style,
                linewidth=1,
                fillstyle="none",
                label=name,
            )
        panel.set_title(f"{model}, {memory} MB")
        panel.set_yscale("log")
        panel.set_xticks(NODES)
    for panel in panels[-1]:
        panel.set_xlabel("nodes")
    for panel in panels[:, 0]:
        panel.set_ylabel("bottleneck, s")
    handles = {
        label: line for panel in panels.flat for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=len(handles))
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)
    pyplot.close(figure)
