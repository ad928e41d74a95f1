"""Pictures of a report (PNG): throughput over time with events, latencies, nodes, and the sweep over nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator.summary import values_text
from slicemq.errors import MissingDependencyError

_SIZE = (8.0, 4.5)
_DPI = 110
_MOST_TICKS = 24


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the pictures of `report` (emulator.report) into `folder`; their paths.

    Raises MissingDependencyError without matplotlib (the extra `plot`).
    """
    plt = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    name = report["scenario"]["name"]

    def save(figure: Any, kind: str) -> None:
        path = folder / f"{name}-{kind}.png"
        figure.tight_layout()
        figure.savefig(path, dpi=_DPI)
        plt.close(figure)
        made.append(path)

    variants = report["variants"]
    if not variants:
        return made
    for number, variant in enumerate(variants, 1):
        ending = f"-{number}" if len(variants) > 1 else ""
        if any(repeat["events"] for repeat in variant["repeats"]) or len(variants) == 1:
            save(_over_time(plt, variant), f"throughput{ending}")
    save(_latencies(plt, variants), "latency")
    if variants[-1]["median"]["nodes"]:
        save(_nodes(plt, variants[-1]), "nodes")
    if sum("nodes" in variant["values"] for variant in variants) > 1:
        save(_sweep(plt, variants), "sweep")
    return made


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError(
            "plots take matplotlib, which is not installed: pip install 'slicemq[plot]'"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    return pyplot


def _over_time(plt: Any, variant: Mapping[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=_SIZE)
    repeat = variant["repeats"][0]
    times, rates = zip(*repeat["throughput"], strict=True)
    axes.step(times, rates, where="mid", color="tab:blue")
    top = max([*rates, 1e-9])
    for place, event in enumerate(repeat["events"]):
        colour = "tab:green" if event["undo"] else "tab:red"
        axes.axvline(event["at"], color=colour, linestyle="--", linewidth=1)
        height = top * (1.0 - 0.06 * (place % 4))
        axes.text(event["at"], height, f" {event['what']}", color=colour, fontsize=8, va="top")
    axes.set(xlabel="seconds", ylabel="frames per second", ylim=(0, 1.1 * top), title="Throughput")
    return figure


def _latencies(plt: Any, variants: list[Mapping[str, Any]]) -> Any:
    figure, axes = plt.subplots(figsize=_SIZE)
    labels = [_label(variant) for variant in variants]
    names = list(variants[0]["median"]["latency_ms"])
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        heights = [variant["median"]["latency_ms"][name] or 0.0 for variant in variants]
        axes.bar([number + place * width for number in range(len(labels))], heights, width, label=name)
    axes.set_xticks([number + 0.4 - width / 2 for number in range(len(labels))], labels)
    axes.set(ylabel="ms", title="Latency")
    axes.legend()
    return figure


def _nodes(plt: Any, variant: Mapping[str, Any]) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=_SIZE)
    rows = dict(list(variant["median"]["nodes"].items())[:_MOST_TICKS])
    places = range(len(rows))
    left.bar(places, [row["cpu_ms_per_frame"] or 0.0 for row in rows.values()])
    left.set(ylabel="ms per frame", title="Processor time")
    half = 0.4
    for shift, name in ((0.0, "received"), (half, "sent")):
        heights = [row[f"{name}_mb_per_frame"] or 0.0 for row in rows.values()]
        right.bar([place + shift for place in places], heights, half, label=name)
    right.set(ylabel="MB per frame", title="Traffic")
    right.legend()
    for axes in (left, right):
        axes.set_xticks(list(places), list(rows), rotation=90 if len(rows) > 6 else 0)
    return figure


def _sweep(plt: Any, variants: list[Mapping[str, Any]]) -> Any:
    figure, axes = plt.subplots(figsize=_SIZE)
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for variant in variants:
        others = {name: value for name, value in variant["values"].items() if name != "nodes"}
        lines.setdefault(values_text(others) or "measured", []).append(variant)
    for label, found in lines.items():
        counts = [variant["values"]["nodes"] for variant in found]
        (line,) = axes.plot(counts, [variant["median"]["rate"] for variant in found], marker="o", label=label)
        planned = [variant["deployments"][0]["planned_rate"] for variant in found]
        axes.plot(counts, planned, linestyle=":", color=line.get_color(), label=f"{label}, planned")
    axes.set(xlabel="nodes", ylabel="frames per second", title="Throughput by nodes")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _label(variant: Mapping[str, Any]) -> str:
    return values_text(variant["values"]).replace(", ", "\n") or f"{len(variant['boards'])} boards"
