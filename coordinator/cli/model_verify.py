"""`slicemq model verify FILE DIR`: the chain of slices equals the whole model, bit for bit."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Output, model_verb
from slicemq.errors import InputError, ModelError, UsageError, VerificationError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.manifest import Manifest
    from converters.runtime import Array, Load
    from converters.schema import Bytes
    from converters.verify import VerifyReport


@model_verb
def command(
    out: Output,
    file: Path = typer.Argument(..., help="The whole model, a .tflite file."),
    folder: Path = typer.Argument(..., help="A folder that `slicemq model slice` wrote."),
    given: list[Path] = typer.Option(
        [], "--input", help="A frame: .npy (models with one input) or .npz (by tensor name or index); repeatable."
    ),
    seeds: int = typer.Option(5, "--seeds", min=0, help="How many random frames."),
    runtime: str = typer.Option("auto", "--runtime", help="auto, ai_edge_litert or tflite_runtime."),
) -> None:
    """Run frames through the whole model and through the slices, and compare every byte of the outputs."""
    from converters.folder import read_folder
    from converters.graph import read_graph
    from converters.schema import open_model
    from converters.verify import Link, bounded, verify_chain
    from coordinator.cli.model_files import loader

    if not seeds and not given:
        raise UsageError("nothing to compare: give --seeds or --input")
    load = loader(runtime)
    data = open_model(file)
    try:
        graph = read_graph(data)
    except ModelError as error:
        raise type(error)(f"{file}: {error}") from error
    manifest = read_folder(folder)
    _check_fit(graph, manifest, file, folder)
    _check_shapes(data, graph, manifest, load, file, folder)
    chain = [
        Link(s.id, tuple(t.index for t in s.inputs), tuple(t.index for t in s.outputs), folder / s.file)
        for s in manifest.slices
    ]
    with out.progress() as progress:
        task = progress.add_task("verifying", total=len(given) + seeds, note="")
        if seeds:
            graph = bounded(data, graph, load, file)

        def counted() -> Iterator[tuple[str, Mapping[int, Array]]]:
            for frame in _frames(graph, given, seeds):
                yield frame
                progress.advance(task)

        report = verify_chain(data, graph, chain, load, counted(), path=file)
    body = _body(report, runtime)
    out.result(body, lambda: _text(body))
    if not report.equal:
        raise VerificationError(f"{folder}: the slices do not give what {file} gives: {report.differences[0]}")


def _check_fit(graph: Graph, manifest: Manifest, file: Path, folder: Path) -> None:
    """Refuse a manifest that does not describe this model. Raises ModelError that names the field."""

    def refuse(where: str, has: object, expected: object) -> None:
        if has != expected:
            raise ModelError(f"{folder}: {where}: {has}, expected {expected} as in {file}")

    if manifest.sha256 != graph.sha256:
        raise ModelError(f"{folder}: cut from model {manifest.sha256}, {file} is {graph.sha256}")
    refuse("model: field size", manifest.size, graph.size)
    for side, tensors, real in (
        ("inputs", manifest.inputs, graph.inputs),
        ("outputs", manifest.outputs, graph.outputs),
    ):
        refuse(f"field {side}: tensors", [t.index for t in tensors], list(real))
        for tensor in tensors:
            refuse(f"{side}: tensor {tensor.index}: field name", tensor.name, graph.public_name(tensor.index))
    last = manifest.slices[-1]
    for entry in manifest.slices:
        for operator in entry.operators:
            if operator >= len(graph.operators):
                raise ModelError(
                    f"{folder}: slice {entry.id}: field operators: {operator}, {file} has {len(graph.operators)}"
                )
        for tensor in (*entry.inputs, *entry.outputs):
            where = f"slice {entry.id}: tensor {tensor.index}"
            if tensor.index >= len(graph.tensors):
                raise ModelError(f"{folder}: {where} does not exist in {file}")
            refuse(f"{where}: field name", tensor.name, graph.tensors[tensor.index].name)
            refuse(f"{where}: field dtype", tensor.dtype, graph.tensors[tensor.index].dtype)
        for tensor in entry.outputs:
            # The last slice also hands on what no operator makes from the inputs.
            if entry is not last and graph.producer.get(tensor.index) not in entry.operators:
                raise ModelError(
                    f"{folder}: slice {entry.id}: field operators: none makes its output {tensor.index} "
                    f"({tensor.name})"
                )


def _check_shapes(data: Bytes, graph: Graph, manifest: Manifest, load: Load, file: Path, folder: Path) -> None:
    """Refuse shapes that the model does not have; it is run only when they are not simply the file's."""
    from converters.shapes import resolve_shapes

    listed = {t.index: t for s in manifest.slices for t in (*s.inputs, *s.outputs)}
    listed.update((t.index, t) for t in (*manifest.inputs, *manifest.outputs))
    if all(t.shape == graph.tensors[t.index].shape for t in listed.values()):
        return
    inputs = {t.index: t.shape for t in manifest.inputs if -1 not in t.shape}
    try:
        true = resolve_shapes(data, graph, load, inputs)
    except ModelError as error:
        raise type(error)(f"{folder}: with the inputs' shapes: {error}") from error
    for tensor in listed.values():
        shape = true.tensors[tensor.index].frame_shape
        pairs = zip(tensor.shape, shape, strict=False)
        # Where a size depends on the frame, another runtime may see it differ, or not.
        if len(tensor.shape) != len(shape) or any(have != real and -1 not in (have, real) for have, real in pairs):
            raise ModelError(
                f"{folder}: tensor {tensor.index} ({tensor.name}): field shape: {list(tensor.shape)}, expected "
                f"{list(shape)} as {file} gives"
            )


def _frames(graph: Graph, given: list[Path], seeds: int) -> Iterator[tuple[str, Mapping[int, Array]]]:
    from converters.runtime import random_inputs

    for path in given:
        yield path.name, _read_frame(graph, path)
    for seed in range(seeds):
        yield f"seed {seed}", random_inputs(graph, seed)


def _read_frame(graph: Graph, path: Path) -> dict[int, Array]:
    """The arrays of an input file by tensor index. Raises InputError."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        found = {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else {"": loaded}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as .npy or .npz: {error}") from error
    if list(found) == [""] and len(graph.inputs) == 1:
        return {graph.inputs[0]: _checked(graph, graph.inputs[0], found[""], path)}
    frame = {}
    for index in graph.inputs:
        name = graph.public_name(index)
        key = next((key for key in (name, graph.tensors[index].name, str(index)) if key in found), None)
        if key is None:
            has = ", ".join(key or "one array without a name" for key in found)
            raise InputError(f"{path}: input {index} ({name}) is missing, the file has {has}")
        frame[index] = _checked(graph, index, found[key], path)
    return frame


def _checked(graph: Graph, index: int, array: Any, path: Path) -> Array:
    tensor = graph.tensors[index]
    sizes = zip(array.shape, tensor.shape, tensor.signature, strict=False)
    fits = array.ndim == len(tensor.shape) and all(have == want or free == -1 for have, want, free in sizes)
    if array.dtype.name != tensor.dtype or not fits:
        raise InputError(
            f"{path}: input {index} ({tensor.name}): expected {tensor.dtype} {list(tensor.shape)}, "
            f"got {array.dtype.name} {list(array.shape)}"
        )
    checked: Array = array
    return checked


def _body(report: VerifyReport, runtime: str) -> dict[str, Any]:
    return {
        "equal": report.equal,
        "frames": report.frames,
        "tensors": report.tensors,
        "runtime": runtime,
        "differences": [
            {"frame": d.frame, "slice": d.slice, "tensor": d.tensor, "name": d.name, "detail": d.detail}
            for d in report.differences
        ],
    }


def _text(body: dict[str, Any]) -> str:
    if body["equal"]:
        return f"equal, bit for bit: {body['frames']} frames, {body['tensors']} outputs"
    rows = [
        f"{d['frame']}: slice {d['slice']}, tensor {d['tensor']} ({d['name']}): {d['detail']}"
        for d in body["differences"]
    ]
    head = f"NOT equal: {len(rows)} of {body['frames']} frames differ; the first difference of each:"
    return "\n".join([head, *rows])
