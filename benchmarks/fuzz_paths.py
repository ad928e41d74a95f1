"""The ways that a user's file takes through SliceMQ, each in a forked child with limits, and how each ended.

cut    open, read the graph, cut in three, read the slices back, cut one of them again: no runtime
node   what a worker process does: check, load into the runtime, warm up
plan   what the coordinator's planning child and the model verbs do: run for the true shapes, then cut
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import random
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slicemq.errors import ModelError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.schema import Bytes

MEMORY = 2_000_000_000
CPU_SECONDS, WALL_SECONDS = 20, 120
WAYS = ("cut", "node", "plan")
# Python, numpy, the schema classes and a runtime's libraries before the first model.
_ROOM_FOR_LIBRARIES = 1_000_000_000


@dataclass(frozen=True)
class Ending:
    """How one way ended.

    kind: `ok`, `refused` (a ModelError), `died` (a signal), `slow` (its processor time is used up), `memory` (more
    than 2 GB resident, or refused more address space), `fail` (any other exception). peak: resident bytes.
    """

    kind: str
    detail: str
    seconds: float
    peak: int


def run(way: str, path: Path, runtime: str, seed: int) -> Ending:
    """Send a file one way, in a child process."""
    ways: dict[str, Callable[[], None]] = {
        "cut": partial(_cut, path, seed),
        "node": partial(_node, path, runtime),
        "plan": partial(_plan, path, runtime, seed),
    }
    return in_child(ways[way])


def warm_up(path: Path, runtime: str) -> None:
    """Send a sound file all ways in this process, so that its forks find everything loaded."""
    _cut(path, 0)
    _node(path, runtime)
    _plan(path, runtime, 0)
    gc.collect()
    gc.freeze()


def in_child(body: Callable[[], None]) -> Ending:
    """Run `body` in a fork of this process, within the limits."""
    reader, writer = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _limit()
        os.write(writer, json.dumps(_attempt(body)).encode()[:4096])
        os._exit(0)
    os.close(writer)
    late = not select.select([reader], [], [], WALL_SECONDS)[0]
    if late:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    said = os.read(reader, 4096)
    os.close(reader)
    peak = usage.ru_maxrss * 1024
    seconds = round(usage.ru_utime + usage.ru_stime, 3)
    if said:
        kind, detail = json.loads(said)
    elif late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        kind, detail = "slow", f"{time.monotonic() - begun:.0f} s, {seconds} s of them computing"
    else:
        code = os.waitstatus_to_exitcode(status)
        kind, detail = "died", signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if peak > MEMORY:
        kind, detail = "memory", f"{peak / 1e6:.0f} MB resident; {kind} {detail}"
    return Ending(kind, detail, seconds, peak)


def _limit() -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY + _ROOM_FOR_LIBRARIES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)


def _attempt(body: Callable[[], None]) -> tuple[str, str]:
    try:
        body()
    except ModelError as error:
        return "refused", f"{type(error).__name__}: {error}"[:300]
    except MemoryError:
        return "memory", _where()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
        return "fail", f"{type(error).__name__}: {str(error)[:200]} {_where()}"
    return "ok", ""


def _where() -> str:
    frames = traceback.format_exc(limit=-3).splitlines()
    return " <- ".join(line.strip() for line in reversed(frames) if line.startswith("  File"))[:600]


def _cut(path: Path, seed: int) -> None:
    from converters.graph import read_graph
    from converters.schema import open_model

    with open_model(path) as data:
        graph = read_graph(data)
        pieces = list(_pieces(data, graph, 3, random.Random(seed)))
    again = random.Random(seed).choice(pieces)
    for piece in pieces:
        # What we write we must be able to read, whatever it was cut from.
        with _sound("a slice cannot be read back"):
            inner = read_graph(piece)
        if piece is again:
            for small in _pieces(piece, inner, 2, random.Random(seed)):
                with _sound("a slice of a slice cannot be read back"):
                    read_graph(small)


class _sound:  # noqa: N801 - used like a function
    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ModelError):
            raise AssertionError(f"{self._what}: {error}") from error


def _pieces(data: Bytes, graph: Graph, count: int, rng: random.Random) -> Iterator[bytes]:
    from converters.costs import multiply_adds  # noqa: F401 - the room's formulas see damaged shapes too
    from converters.memory import slice_memory
    from converters.profile import estimate
    from converters.slicing import edges, groups_at, iter_slices, legal_positions, result_parts

    legal = legal_positions(graph)
    positions = sorted(rng.sample(legal, min(count - 1, len(legal))))
    groups = groups_at(graph, positions)
    edges(graph, groups)
    result_parts(graph, groups)
    estimate(graph)
    for piece in iter_slices(data, graph, groups):
        slice_memory(graph, piece.operators)
        yield piece.data


def _node(path: Path, runtime: str) -> None:
    from edge_node.runtime import open_interpreter

    open_interpreter(path, runtime=runtime).warm_up()


def _plan(path: Path, runtime: str, seed: int) -> None:
    from converters.graph import read_graph
    from converters.schema import open_model
    from converters.shapes import resolve_shapes
    from edge_node.runtime import open_interpreter

    with open_model(path) as data:
        graph = resolve_shapes(data, read_graph(data), partial(open_interpreter, runtime=runtime))
        for piece in _pieces(data, graph, 3, random.Random(seed)):
            with _sound("a slice cannot be read back"):
                read_graph(piece)
