"""What the `model` verbs share: a model file, its graph, and the runtime that finds the shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slicemq.errors import ModelError, RuntimeUnavailableError, UnsupportedOperatorError, UsageError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.runtime import Load
    from converters.schema import Bytes

RUNTIMES = ("auto", "ai_edge_litert", "tflite_runtime")


@dataclass(frozen=True)
class ModelFile:
    """A mapped model; `note` says why its shapes are the file's own, empty when they come from a run."""

    path: Path
    data: Bytes
    graph: Graph
    note: str


def loader(runtime: str) -> Load:
    """Opens interpreters of `runtime` with one thread. Raises UsageError for an unknown name."""
    from edge_node.runtime import open_interpreter

    if runtime not in RUNTIMES:
        raise UsageError(f"--runtime: expected {', '.join(RUNTIMES)}, got {runtime!r}")
    return partial(open_interpreter, runtime=runtime)


def read_model(path: Path, runtime: str = "auto") -> ModelFile:
    """Read a model and run it once for its true shapes; without a runtime that can run it, the file's count.

    Raises ModelError.
    """
    from converters.graph import read_graph
    from converters.schema import open_model
    from converters.shapes import resolve_shapes

    load = loader(runtime)
    data = open_model(path)
    try:
        graph = read_graph(data)
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from error
    try:
        return ModelFile(path, data, resolve_shapes(data, graph, load), "")
    except (RuntimeUnavailableError, UnsupportedOperatorError) as error:
        return ModelFile(path, data, graph, f"shapes are those of the file, the model did not run: {error}")


def megabytes(size: float) -> str:
    """Bytes as MB (10^6) for people."""
    return f"{size / 1e6:.3f}" if size < 1e6 else f"{size / 1e6:.1f}"
