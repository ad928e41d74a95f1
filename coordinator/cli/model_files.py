"""What the `model` verbs share: a model file, its graph, and the runtime that finds the shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from slicemq.errors import ModelError, RuntimeUnavailableError, UnsupportedOperatorError, UsageError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.runtime import Load
    from converters.schema import Bytes

RUNTIMES = ("auto", "ai_edge_litert", "tflite_runtime")
INPUT_SHAPE: Any = typer.Option(
    [],
    "--input-shape",
    metavar="NAME=1x16000",
    help="The size of an input that the model leaves open, by its name or index; repeatable.",
)
_SHAPE = re.compile(r"(?P<name>.+)=(?P<sizes>[1-9][0-9]{0,8}(x[1-9][0-9]{0,8})*)")


@dataclass(frozen=True)
class ModelFile:
    """A mapped model; `note` says why its shapes are the file's own, empty when they come from a run.

    runtime: the one that runs it, by name; empty when none is installed.
    """

    path: Path
    data: Bytes
    graph: Graph
    note: str
    runtime: str


def loader(runtime: str) -> Load:
    """Opens interpreters of `runtime` with one thread. Raises UsageError for an unknown name."""
    from edge_node.runtime import open_interpreter

    if runtime not in RUNTIMES:
        raise UsageError(f"--runtime: expected {', '.join(RUNTIMES)}, got {runtime!r}")
    return partial(open_interpreter, runtime=runtime)


def parse_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by input from `NAME=1x16000` texts. Raises UsageError."""
    found: dict[str, tuple[int, ...]] = {}
    for text in given:
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise UsageError(f"--input-shape: expected NAME=SIZExSIZE..., such as audio=1x16000, got {text!r}")
        if match["name"] in found:
            raise UsageError(f"--input-shape: {match['name']} is given twice")
        found[match["name"]] = tuple(int(size) for size in match["sizes"].split("x"))
    return found


def read_model(path: Path, runtime: str = "auto", shapes: Mapping[str, tuple[int, ...]] | None = None) -> ModelFile:
    """Read a model and run it once for its true shapes; without a runtime that can run it, the file's count.

    `shapes` are those of inputs that it leaves open. Raises ModelError.
    """
    from converters.graph import read_graph
    from converters.schema import open_model
    from converters.shapes import named_shapes, resolve_shapes
    from edge_node.runtime import available_runtimes

    load = loader(runtime)
    installed = [info.name for info in available_runtimes()]
    name = runtime if runtime != "auto" else next(iter(installed), "")
    data = open_model(path)
    try:
        graph = read_graph(data)
        wanted = named_shapes(graph, shapes or {})
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from error
    try:
        return ModelFile(path, data, resolve_shapes(data, graph, load, wanted), "", name)
    except (RuntimeUnavailableError, UnsupportedOperatorError) as error:
        return ModelFile(path, data, graph, f"shapes are those of the file, the model did not run: {error}", name)
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from error


def megabytes(size: float) -> str:
    """Bytes as MB (10^6) for people."""
    return f"{size / 1e6:.3f}" if size < 1e6 else f"{size / 1e6:.1f}"
