"""A TFLite runtime in a process of its own: two cannot share one, and a mixed chain needs both."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from converters.graph import Graph, read_graph
from converters.runtime import Array, feed
from converters.schema import open_model
from converters.shapes import resolve_shapes
from edge_node.operators import known_operators
from edge_node.runtime import Interpreter, load_runtime, open_interpreter
from slicemq.errors import ModelError, SliceMQError

_SECONDS = 600.0


class FarRuntime:
    """Opens and runs models in a child process; leave the `with` block to end it."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        context = multiprocessing.get_context("spawn")
        self._line, other = context.Pipe()
        self._child = context.Process(target=_serve, args=(other, runtime), daemon=True)
        self._child.start()
        other.close()

    def __enter__(self) -> FarRuntime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()
        self._child.join(10.0)
        if self._child.is_alive():
            self._child.kill()

    def version(self) -> str:
        """Name and version of the runtime."""
        return str(self._ask("version"))

    def operators(self) -> dict[str, int]:
        """The highest version of each operator that it takes."""
        found: dict[str, int] = self._ask("operators")
        return found

    def graph(self, path: Path) -> Graph:
        """The graph of a model with the shapes that it has when it runs."""
        found: Graph = self._ask("graph", path)
        return found

    def open(self, key: str, path: Path) -> None:
        """Load a model and keep it under `key`; raises SliceMQError when the runtime cannot."""
        self._ask("open", key, path)

    def run(self, key: str, arrays: Sequence[Array], outputs: int) -> list[Array]:
        """Run a loaded model; its first `outputs` outputs."""
        found: list[Array] = self._ask("run", key, arrays, outputs)
        return found

    def forget(self) -> None:
        """Close all models."""
        self._ask("forget")

    def _ask(self, *task: object) -> Any:
        try:
            self._line.send(task)
            if not self._line.poll(_SECONDS):
                raise ModelError(f"{self.runtime}: no answer within {_SECONDS:g} s")
            answer = self._line.recv()
        except (EOFError, OSError) as error:
            raise ModelError(f"{self.runtime}: the process ended at {task[0]} {task[1:2]}") from error
        if isinstance(answer, SliceMQError):
            raise answer
        return answer


def _serve(line: Connection, runtime: str) -> None:
    models: dict[str, Interpreter] = {}
    while True:
        try:
            task, *arguments = line.recv()
        except EOFError:
            return
        try:
            line.send(_do(models, runtime, task, arguments))
        except SliceMQError as error:
            line.send(error)


def _do(models: dict[str, Interpreter], runtime: str, task: str, arguments: list[Any]) -> Any:
    match task:
        case "version":
            info = load_runtime(runtime)
            return f"{info.name} {info.version}"
        case "operators":
            return known_operators(lambda model: open_interpreter(model, runtime=runtime))
        case "graph":
            data = open_model(arguments[0])
            return resolve_shapes(data, read_graph(data), lambda model: open_interpreter(model, runtime=runtime))
        case "open":
            key, path = arguments
            models[key] = open_interpreter(path, runtime=runtime)
        case "run":
            key, arrays, outputs = arguments
            feed(models[key], arrays)
            models[key].invoke()
            return [models[key].output(position) for position in range(outputs)]
        case "forget":
            models.clear()
    return None
