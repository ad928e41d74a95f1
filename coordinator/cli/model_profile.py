"""`slicemq model profile FILE`: what each operator costs on this machine, and how far that can be trusted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Output, model_verb
from coordinator.cli.model_files import INPUT_SHAPE, parse_shapes
from slicemq.errors import UsageError

if TYPE_CHECKING:
    from converters.profile import Profile
    from coordinator.cli.model_files import ModelFile

_TOP = 20


@model_verb
def command(
    out: Output,
    file: Path = typer.Argument(..., help="The model, a .tflite file."),
    runtime: str = typer.Option("auto", "--runtime", help="auto, ai_edge_litert or tflite_runtime."),
    input_shape: list[str] = INPUT_SHAPE,
    seconds: float = typer.Option(6.0, "--seconds", help="How long to measure at most, besides loading the model."),
    fresh: bool = typer.Option(False, "--fresh", help="Measure anew, whatever is in the cache."),
    top: int = typer.Option(_TOP, "--top", min=0, help="How many of the costliest operators to list."),
) -> None:
    """Measure what each operator costs on this machine, or show what has been measured before.

    The result is kept in the cache folder ($XDG_CACHE_HOME/slicemq/profiles) by model, runtime and processor;
    `plan make` and `model slice` take it from there.
    """
    if not (math.isfinite(seconds) and 0 < seconds <= 3600):
        raise UsageError(f"--seconds: expected more than 0 and at most 3600, got {seconds:g}")
    shapes = parse_shapes(input_shape)
    from coordinator.cli.measured import measured
    from coordinator.cli.model_files import read_model

    with out.progress() as progress:
        task = progress.add_task("running the model for its shapes", total=None, note="")
        model = read_model(file, runtime, shapes)
        progress.update(task, description="measuring")
        profile = measured(model.data, model.graph, runtime, fresh=fresh, seconds=seconds)
    body = description(model, profile)
    out.result(body, lambda: _text(body, top, out))


def description(model: ModelFile, profile: Profile) -> dict[str, Any]:
    """Everything that the verb knows, as plain data. Times are in seconds, errors are shares."""
    from dataclasses import asdict

    from converters.classes import class_of

    graph = model.graph
    total = sum(profile.seconds.values())
    classes: dict[str, dict[str, Any]] = {}
    rows = []
    for step in graph.steps:
        operator = graph.operators[step]
        name, spent = class_of(graph, operator), profile.seconds[step]
        row = classes.setdefault(name, {"class": name, "operators": 0, "seconds": 0.0, "macs": 0})
        row["operators"] += 1
        row["seconds"] += spent
        row["macs"] += operator.macs
        rows.append(
            {
                "index": step,
                "name": operator.name,
                "class": name,
                "seconds": spent,
                "share": spent / total if total else 0.0,
                "macs": operator.macs,
                "output": graph.tensors[operator.outputs[0]].name if operator.outputs else "",
            }
        )
    return {
        "file": str(model.path),
        "sha256": graph.sha256,
        "runtime": profile.runtime,
        "seconds": total,
        "overhead": profile.overhead,
        "per_tensor": profile.per_tensor,
        "per_byte": profile.per_byte,
        "fit": None if profile.fit is None else asdict(profile.fit),
        "classes": sorted(classes.values(), key=lambda row: -row["seconds"]),
        "operators": rows,
    }


def _text(body: dict[str, Any], top: int, out: Output) -> str:
    total = body["seconds"] or 1.0
    costliest = sorted(body["operators"], key=lambda row: -row["seconds"])[:top]
    operators = [
        [
            str(row["index"]),
            row["name"],
            row["class"],
            f"{row['seconds'] * 1e3:.4f}",
            f"{100 * row['share']:.1f}%",
            row["output"][:48],
        ]
        for row in costliest
    ]
    classes = [
        [
            row["class"],
            str(row["operators"]),
            f"{row['seconds'] * 1e3:.4f}",
            f"{100 * row['seconds'] / total:.1f}%",
            f"{row['macs'] / row['seconds'] / 1e9:.1f}" if row["macs"] and row["seconds"] else "",
        ]
        for row in body["classes"]
    ]
    parts = [f"{body['file']} on {body['runtime']}: {body['seconds'] * 1e3:.3f} ms a frame"]
    if operators:
        parts.append(out.table(["operator", "name", "class", "ms", "share", "makes"], operators))
    parts.append(out.table(["class", "operators", "ms", "share", "10^9 multiply-adds/s"], classes))
    fit = body["fit"]
    parts.append(
        f"each slice adds {body['overhead'] * 1e6:.1f} us, each tensor in or out {body['per_tensor'] * 1e6:.1f} us "
        f"and {body['per_byte'] * 1e12:.0f} us/MB\n"
        f"fit: {fit['windows']} runs of operators timed; computed times differ by {fit['median']:.1%} (median), "
        f"{fit['worst']:.1%} (worst), {fit['whole']:+.1%} (longest)"
    )
    return "\n\n".join(parts)
