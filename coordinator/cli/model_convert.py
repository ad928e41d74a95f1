"""`slicemq model convert SRC OUT`: a model of any origin becomes a .tflite, quantized as a whole where asked."""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Output, verb
from slicemq.errors import UsageError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.sources import Converted

_SAMPLES = 100


@verb
def command(
    out: Output,
    source: Path = typer.Argument(
        ..., metavar="SRC", help="Keras (.keras, .h5), a SavedModel folder, .onnx, .pt2 (PyTorch) or .tflite."
    ),
    target: Path = typer.Argument(
        ..., metavar="OUT", help="The .tflite to write; a file of that name is replaced, as cp does."
    ),
    quantize: str = typer.Option(
        "none",
        "--quantize",
        help="none, float16 (weights), dynamic (weights of 8 bits) or int8 (weights and activations).",
    ),
    calibration: Path | None = typer.Option(
        None,
        "--calibration",
        help="For int8: a folder of typical inputs, as pictures, .npy (one, or a batch [n, ...]) or .npz files (an "
        "array for each input, by name).",
    ),
    samples: int = typer.Option(_SAMPLES, "--samples", min=1, help="How many calibration samples to use at most."),
    normalize: str | None = typer.Option(
        None,
        "--normalize",
        help="How pixels of calibration pictures become values: -1..1 (default), 0..1, none (0..255), imagenet.",
    ),
    io: str = typer.Option(
        "int8", "--io", help="For int8: what the inputs and outputs are: int8, uint8 or float32."
    ),
    signature: str | None = typer.Option(
        None, "--signature", help="Which signature of a SavedModel (default: serving_default, or the only one)."
    ),
    shape: list[str] = typer.Option(
        [],
        "--shape",
        help="Size of an input that has open dimensions, as NAME=1x224x224x3; repeatable. An open batch is 1.",
    ),
    python: str | None = typer.Option(
        None, "--python", help="The interpreter that has TensorFlow (default: the one that runs slicemq)."
    ),
) -> None:
    """Make a .tflite of a Keras, SavedModel, ONNX or PyTorch model; a .tflite is checked and copied.

    The whole model is quantized once; cut it afterwards. What converts runs in a process of its own.
    """
    from converters.sources import check_io, check_quantization, convert

    shapes = dict(map(_shape, shape))
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # As Ctrl-C does, so that nothing half written stays.
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    with out.progress() as progress:
        progress.add_task("converting", total=None, note="")
        converted = convert(
            source,
            target,
            quantize=check_quantization(quantize),
            calibration=calibration,
            python=python or sys.executable,
            io=check_io(io),
            samples=samples,
            normalize=normalize,
            signature=signature,
            shapes=shapes,
        )
    body = _body(converted)
    out.result(body, lambda: _text(body, out))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    if not name or not equals or not re.fullmatch(r"[1-9]\d{0,8}([x,][1-9]\d{0,8})*", sizes):
        raise UsageError(f"--shape: expected NAME=1x224x224x3, got {text!r}")
    return name, tuple(int(size) for size in re.split("[x,]", sizes))


def _body(converted: Converted) -> dict[str, Any]:
    """What was made, as plain data, sizes in bytes; `cuts` is None for what cannot be cut, and `note` says why."""
    graph = converted.graph
    return {
        "file": str(converted.path),
        "kind": converted.kind,
        "converter": converted.converter,
        "quantize": converted.quantize,
        "signature": converted.signature,
        "samples": converted.samples,
        "size": converted.size,
        "sha256": converted.sha256,
        "inputs": [] if graph is None else [_tensor(graph, index) for index in graph.inputs],
        "outputs": [] if graph is None else [_tensor(graph, index) for index in graph.outputs],
        "operator_counts": {} if graph is None else dict(Counter(o.name for o in graph.operators).most_common()),
        "cuts": None if graph is None else _cuts(graph),
        "note": converted.note,
    }


def _tensor(graph: Graph, index: int) -> dict[str, Any]:
    tensor, name = graph.tensors[index], graph.public_name(index)
    return {"index": index, "name": name, "dtype": tensor.dtype, "shape": list(tensor.signature)}


def _cuts(graph: Graph) -> int:
    from converters.slicing import legal_positions

    return len(legal_positions(graph))


def _text(body: dict[str, Any], out: Output) -> str:
    from coordinator.cli.model_files import megabytes

    how = f"converted by {body['converter']}" if body["converter"] else "checked and copied"
    lines = [
        body["file"],
        f"  from       {body['kind']}, {how}" + (f", signature {body['signature']}" if body["signature"] else ""),
        f"  size       {megabytes(body['size'])} MB",
        f"  quantized  {body['quantize']}" + (f", {body['samples']} samples" if body["samples"] else ""),
        f"  sha256     {body['sha256']}",
    ]
    if body["cuts"] is None:
        return "\n".join([*lines, f"  it cannot be cut: {body['note']}"])
    operators = ", ".join(f"{count} {name}" for name, count in body["operator_counts"].items())
    lines += [f"  operators  {operators}", f"  cuts       {body['cuts']} places to cut"]
    tensors = [
        [side, str(t["index"]), t["dtype"], _sizes(t["shape"]), t["name"]]
        for side in ("inputs", "outputs")
        for t in body[side]
    ]
    return "\n".join([*lines, "", out.table(["", "index", "dtype", "shape", "name"], tensors)])


def _sizes(shape: list[int]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape) or "scalar"
