"""`slicemq model inspect FILE`: what a model holds and where it can be cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Output, model_verb
from coordinator.cli.model_files import INPUT_SHAPE, parse_shapes

if TYPE_CHECKING:
    from converters.graph import Graph
    from coordinator.cli.model_files import ModelFile

_NARROWEST = 10


@model_verb
def command(
    out: Output,
    file: Path = typer.Argument(..., help="The model, a .tflite file."),
    runtime: str = typer.Option("auto", "--runtime", help="auto, ai_edge_litert or tflite_runtime."),
    input_shape: list[str] = INPUT_SHAPE,
    cuts: int = typer.Option(_NARROWEST, "--cuts", min=0, help="How many of the narrowest cuts to list."),
    operators: bool = typer.Option(False, "--operators", help="List every operator that can be placed."),
    plot: Path | None = typer.Option(
        None, "--plot", help="Draw bytes and cost along the model into this .png, .svg or .pdf file."
    ),
) -> None:
    """Show a model's inputs, outputs and operators, and its narrowest cuts."""
    from coordinator.cli.model_files import read_model

    shapes = parse_shapes(input_shape)
    if plot is not None:
        from coordinator.cli.model_plot import check_target, draw

        check_target(plot)

    with out.progress() as progress:
        progress.add_task("running the model for its shapes", total=None, note="")
        model = read_model(file, runtime, shapes)
    body = description(model)
    if plot is not None:
        draw(body, plot)
    out.result(body, lambda: _text(body, cuts, operators, out))


def description(model: ModelFile) -> dict[str, Any]:
    """Everything that the verb knows, as plain data. Sizes are in bytes, times in seconds."""
    from converters.memory import slice_memory
    from converters.profile import estimate

    graph = model.graph
    seconds = estimate(graph).seconds
    return {
        "file": str(model.path),
        "sha256": graph.sha256,
        "size": graph.size,
        "description": graph.description,
        "note": model.note,
        "memory": slice_memory(graph, graph.steps, model.runtime),
        "runtime": model.runtime,
        "inputs": [_tensor(graph, t) for t in graph.inputs],
        "outputs": [_tensor(graph, t) for t in graph.outputs],
        "operator_counts": dict(Counter(op.name for op in graph.operators).most_common()),
        "constant_operators": sum(op.constant and not op.dead for op in graph.operators),
        "recomputed_operators": sum(op.recomputed for op in graph.operators),
        "dead_operators": sum(op.dead for op in graph.operators),
        "subgraphs": len(graph.subgraphs),
        "variables": [{"name": v.name, "steps": list(v.steps)} for v in graph.variables],
        "signatures": [
            {
                "key": s.key,
                "inputs": {name: index for index, name in s.inputs.items()},
                "outputs": {name: index for index, name in s.outputs.items()},
            }
            for s in graph.signatures
        ],
        "metadata": [{"name": name, "bytes": size} for name, size in graph.metadata],
        "macs": sum(graph.operators[i].macs for i in graph.steps),
        "steps": [
            {
                "index": i,
                "name": graph.operators[i].name,
                "version": graph.operators[i].version,
                "inputs": list(graph.operators[i].inputs),
                "outputs": list(graph.operators[i].outputs),
                "macs": graph.operators[i].macs,
                "weight_bytes": graph.operators[i].weight_bytes,
                "estimated_seconds": seconds[i],
            }
            for i in graph.steps
        ],
        "cuts": list(_cuts(graph)),
    }


def _tensor(graph: Graph, index: int) -> dict[str, Any]:
    tensor = graph.tensors[index]
    return {"index": index, "name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _cuts(graph: Graph) -> Iterator[dict[str, Any]]:
    """`bytes` come from the slices before the cut, `bytes_from_client` from the client to those after it.

    An operator that only writes a variable makes no tensor: `after_tensor` is null, `after_name` empty.
    """
    from converters.slicing import legal_positions

    place = {step: number for number, step in enumerate(graph.steps, start=1)}
    last_use = {t: place[graph.consumers[t][-1]] for t in graph.inputs if t in graph.consumers}
    legal = set(legal_positions(graph))
    for position, tensors in enumerate(graph.crossings):
        if position not in legal:
            continue
        last = graph.operators[graph.steps[position - 1]]
        after = next((t for t in last.outputs if t >= 0), None)
        yield {
            "position": position,
            "after_operator": last.index,
            "after_tensor": after,
            "after_name": "" if after is None else graph.tensors[after].name,
            "tensors": list(tensors),
            "bytes": sum(graph.tensors[t].nbytes for t in tensors),
            "bytes_from_client": sum(graph.tensors[t].nbytes for t, use in last_use.items() if use > position),
        }


def _text(body: dict[str, Any], most: int, listed: bool, out: Output) -> str:
    from coordinator.cli.model_files import megabytes

    lines = [
        f"{body['file']}",
        f"  sha256     {body['sha256']}",
        f"  size       {megabytes(body['size'])} MB, about {megabytes(body['memory'])} MB in memory as one slice"
        + (f" in {body['runtime']}" if body["runtime"] else ""),
        f"  operators  {len(body['steps'])} to place, {body['constant_operators']} fed by constants only, "
        f"{body['recomputed_operators']} run again where they are read, {body['dead_operators']} dead; "
        f"{body['macs'] / 1e6:.1f} million multiply-adds",
    ]
    if body["subgraphs"]:
        lines.append(f"  subgraphs  {body['subgraphs']} that operators call")
    if body["variables"]:
        lines.append(f"  state      kept from frame to frame, in variables: {len(body['variables'])}")
    for signature in body["signatures"]:
        sides = (", ".join(signature[side]) for side in ("inputs", "outputs"))
        lines.append(f"  signature  {signature['key']}: {' -> '.join(sides)}")
    if body["metadata"]:
        entries = ", ".join(f"{entry['name']} ({entry['bytes']} bytes)" for entry in body["metadata"])
        lines.append(f"  metadata   {entries}")
    if body["note"]:
        lines.append(f"  note       {body['note']}")
    tensors = [
        [side, str(t["index"]), t["dtype"], "x".join(map(str, t["shape"])) or "scalar", t["name"]]
        for side in ("inputs", "outputs")
        for t in body[side]
    ]
    lines += ["", out.table(["", "index", "dtype", "shape", "name"], tensors)]
    counts = [[name, str(count)] for name, count in body["operator_counts"].items()]
    lines += ["", out.table(["operator", "count"], counts)]
    if listed:
        lines += ["", _operators(body, out)]
    cuts = sorted(body["cuts"], key=lambda cut: (cut["bytes"] + cut["bytes_from_client"], cut["position"]))
    lines += ["", f"{len(cuts)} places to cut" + (", the narrowest:" if cuts and most else "")]
    if cuts and most:
        rows = [
            [
                str(cut["position"]),
                megabytes(cut["bytes"]),
                str(len(cut["tensors"])),
                megabytes(cut["bytes_from_client"]),
                "" if cut["after_tensor"] is None else str(cut["after_tensor"]),
                cut["after_name"],
            ]
            for cut in cuts[:most]
        ]
        lines.append(out.table(["after steps", "MB", "tensors", "MB from client", "--cut", "name"], rows))
    return "\n".join(lines)


def _operators(body: dict[str, Any], out: Output) -> str:
    """Every step with its share of the time and what crosses behind it, where one can cut there."""
    from coordinator.cli.model_files import megabytes

    total = sum(step["estimated_seconds"] for step in body["steps"]) or 1.0
    crossing = {cut["position"]: cut["bytes"] for cut in body["cuts"]}
    rows = [
        [
            str(position),
            str(step["index"]),
            step["name"],
            str(step["version"]),
            f"{step['macs'] / 1e6:.2f}",
            megabytes(step["weight_bytes"]),
            f"{100 * step['estimated_seconds'] / total:.1f}%",
            megabytes(crossing[position]) if position in crossing else "",
        ]
        for position, step in enumerate(body["steps"], start=1)
    ]
    columns = ["step", "index", "operator", "version", "million MACs", "weights MB", "cost", "MB if cut after it"]
    return out.table(columns, rows)
