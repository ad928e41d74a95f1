"""A picture of what `slicemq plan explain` tells: what each slice is busy with, and rate against latency."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.cli.model_plot import write_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.planner.explain import Point
    from coordinator.planner.plan import Plan

_PARTS = (
    ("computing", "compute_ms", "#a5423b"),
    ("receiving", "down_ms", "#3b6ea5"),
    ("sending", "up_ms", "#6a8f3c"),
)


def draw(plan: Plan, points: Sequence[Point], path: Path) -> None:
    """Draw a plan into `path`. Raises StoreError when that cannot be written."""
    from matplotlib.figure import Figure  # without pyplot: no display, no state

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [
        (f"{item.id} {node}", item, len(item.turns[number]) / plan.turns if item.turns else 1.0)
        for item in plan.slices
        for number, node in enumerate(item.nodes)
    ]
    for place, (label, field, color) in enumerate(_PARTS):
        left.barh(
            [number + 0.27 * (place - 1) for number in range(len(rows))],
            [getattr(item, field) * share for _, item, share in rows],
            0.25,
            color=color,
            label=label,
        )
    left.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    left.invert_yaxis()
    left.axvline(plan.period_ms, color="black", linewidth=1, label="period")
    left.axvline(plan.lower_bound_ms, color="gray", linewidth=1, linestyle=":", label="proved bound")
    left.set_xlabel("ms for each frame of the pipeline")
    left.legend()
    right.plot([point.latency_ms for point in points], [point.rate for point in points], "o-", color="#3b6ea5")
    for point in points:
        right.annotate(str(point.slices), (point.latency_ms, point.rate), xytext=(4, 4), textcoords="offset points")
    right.plot(
        [plan.latency_ms], [1e3 / plan.period_ms if plan.period_ms else 0], "s", color="#a5423b", label="this plan"
    )
    right.set_xlabel("latency, ms")
    right.set_ylabel("frames per second")
    right.set_title("single pipelines, with their numbers of slices")
    right.set_xlim(left=0)
    right.set_ylim(bottom=0)
    right.legend()
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:])
    write_picture(path, buffer.getvalue())
