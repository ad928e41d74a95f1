"""`slicemq model slice FILE -o DIR`: cut a model into a folder of slices, by stages, tensors, places or a plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Output, model_verb
from coordinator.cli.model_files import INPUT_SHAPE, parse_shapes
from slicemq.errors import CutError, PlanError, UsageError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.manifest import Manifest
    from converters.profile import Profile
    from coordinator.cli.model_files import ModelFile


@model_verb
def command(
    out: Output,
    file: Path = typer.Argument(..., help="The model, a .tflite file."),
    folder: Path = typer.Option(..., "-o", "--out", help="Folder for the slices and slices.json."),
    stages: int | None = typer.Option(None, "--stages", min=1, help="Cut into so many slices of about equal cost."),
    cut: list[str] = typer.Option(
        [], "--cut", help="Cut after the operator that makes this tensor (name or index); repeatable."
    ),
    at: list[int] = typer.Option(
        [], "--at", min=1, help="Cut after so many steps (see `model inspect`); repeatable, and beside --cut."
    ),
    plan: Path | None = typer.Option(None, "--plan", help="Cut as this plan file does (slicemq plan make)."),
    profile: str = typer.Option("measure", "--profile", help="Costs for --stages: measure, or estimate."),
    runtime: str = typer.Option("auto", "--runtime", help="auto, ai_edge_litert or tflite_runtime."),
    input_shape: list[str] = INPUT_SHAPE,
) -> None:
    """Cut a model into slices: slice-00.tflite, slice-01.tflite ... and slices.json.

    An earlier folder of slices in that place is replaced without asking; one with anything else in it is refused.
    """
    if (stages is not None) + bool(cut or at) + (plan is not None) != 1:
        raise UsageError("give --stages N, or --cut TENSOR and --at N (repeatable), or --plan FILE")
    if profile not in ("measure", "estimate"):
        raise UsageError(f"--profile: expected measure or estimate, got {profile!r}")
    shapes = parse_shapes(input_shape)
    from converters.folder import write_folder
    from converters.profile import estimate
    from converters.slicing import cut_positions, edges, groups_at, iter_slices
    from coordinator.cli.model_files import read_model

    with out.progress() as progress:
        task = progress.add_task("reading", total=None, note="")
        model = read_model(file, runtime, shapes)
        graph = model.graph
        costs = estimate(graph)
        with _naming(file):
            if plan is not None:
                groups = _planned(graph, plan)
            elif stages is None:
                groups = groups_at(graph, sorted({*cut_positions(graph, cut), *at}))
            else:
                from converters.balance import balanced_positions

                progress.update(task, description="measuring" if profile == "measure" else "estimating")
                costs = _costs(model, profile, runtime)
                groups = groups_at(graph, balanced_positions(graph, costs, stages))
            progress.update(task, description="cutting")
            manifest = write_folder(folder, graph, iter_slices(model.data, graph, groups), edges(graph, groups))
    body = _body(model, folder, manifest, costs)
    out.result(body, lambda: _text(body, out))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Let errors of cuts name the model's file."""
    try:
        yield
    except CutError as error:
        raise type(error)(f"{file}: {error}") from error


def _planned(graph: Graph, file: Path) -> list[list[int]]:
    """The groups of a plan file. Raises PlanError that names the file and the field."""
    from coordinator.planner.plan import Plan

    try:
        plan = Plan.from_json(file.read_bytes(), graph=graph)
    except OSError as error:
        raise PlanError(f"{file}: cannot be read: {error.strerror or error}") from error
    except PlanError as error:
        raise type(error)(f"{file}: {error}") from error
    return [list(item.operators) for item in plan.slices]


def _costs(model: ModelFile, profile: str, runtime: str) -> Profile:
    from converters.profile import estimate
    from coordinator.cli.measured import measured

    if profile == "estimate" or model.note:
        return estimate(model.graph)
    return measured(model.data, model.graph, runtime)


def _body(model: ModelFile, folder: Path, manifest: Manifest, costs: Profile) -> dict[str, Any]:
    from converters.memory import slice_memory

    graph = model.graph
    rows = []
    for entry in manifest.slices:
        sent = [t.index for t in entry.outputs]
        rows.append(
            {
                "id": entry.id,
                "file": entry.file,
                "sha256": entry.sha256,
                "size": entry.size,
                "operators": len(entry.operators),
                "memory": slice_memory(graph, entry.operators, model.runtime),
                "seconds": costs.of(entry.operators),
                "bytes_in": sum(graph.tensors[t.index].nbytes for t in entry.inputs),
                "bytes_out": sum(graph.tensors[t].nbytes for t in sent),
            }
        )
    source = costs.runtime if costs.measured else "estimate"
    return {"folder": str(folder), "model": manifest.sha256, "note": model.note, "costs": source, "slices": rows}


def _text(body: dict[str, Any], out: Output) -> str:
    from coordinator.cli.model_files import megabytes

    total = sum(row["seconds"] for row in body["slices"]) or 1.0
    rows = [
        [
            row["id"],
            row["file"],
            megabytes(row["size"]),
            str(row["operators"]),
            f"{100 * row['seconds'] / total:.1f}%",
            megabytes(row["memory"]),
            megabytes(row["bytes_in"]),
            megabytes(row["bytes_out"]),
        ]
        for row in body["slices"]
    ]
    table = out.table(["slice", "file", "MB", "operators", "cost", "memory MB", "MB in", "MB out"], rows)
    note = f"\nnote: {body['note']}" if body["note"] else ""
    return f"{table}\n{len(rows)} slices in {body['folder']}{note}"
