"""Random chains of slices of a model in one runtime, each compared with the whole; for equality.py, in a child."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.models import RealModel, pictures
from converters.graph import Graph, read_graph
from converters.runtime import Array, Interpreter, Load, TensorInfo, random_inputs
from converters.schema import Bytes, open_model
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, iter_slices, legal_positions, parts
from converters.verify import Link, VerifyReport, link, verify_chain
from edge_node.runtime import open_interpreter
from slicemq.errors import CutError, SliceMQError, UnsupportedOperatorError

STATEFUL_FRAMES = 50
_TRIES = 60
_WHOLE = Path("whole")


@dataclass(frozen=True)
class Row:
    """One chain of one model in one runtime.

    kind: `cuts` (runs of operators in the file's order), `branches` (at least one slice that is no such run), or
    `none` when the model has no such cut. frames: how many were compared. detail: the first difference, or why
    there is no chain. digest: of the slices, so that the row holds for the same ones made by other code.
    """

    model: str
    runtime: str
    slices: int
    seed: int
    kind: str
    frames: int
    equal: bool
    detail: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Facts:
    """What a model is: its operators, its legal cuts, the bytes of the narrowest one.

    uncut: why nothing can be cut, or empty. note: why the whole is not the file itself but all its operators in one
    slice; empty if it is the file.
    """

    operators: int
    cuts: int
    narrowest: int | None
    stateful: bool
    uncut: str
    note: str


class Subject:
    """A model that chains are compared with, loaded once."""

    def __init__(self, model: RealModel, runtime: str) -> None:
        """Raises SliceMQError for a model that cannot be cut, or that the runtime cannot run."""
        self.model = model
        self.runtime = runtime
        self.data: Bytes = open_model(model.path)
        self._open: Load = partial(open_interpreter, runtime=runtime)
        read = read_graph(self.data)
        self.graph: Graph = resolve_shapes(self.data, read, self._open)
        self.legal = legal_positions(self.graph)
        self.note = ""
        self._source: bytes | Path = model.path
        try:
            native = self._open(model.path)
        except UnsupportedOperatorError as error:
            # The runtime may take the operators in the versions that slices have.
            self._source = next(iter_slices(self.data, self.graph, [self.graph.steps])).data
            native = self._open(self._source)
            self.note = str(error)
        self._whole = Remembered(native, len(self.graph.outputs))

    def load(self, model: bytes | Path) -> Interpreter:
        """The whole model is loaded once and answers a frame that it knows from memory, unless it keeps state."""
        if isinstance(model, Path):
            return self._open(self._source) if self.graph.stateful else self._whole
        return self._open(model)

    def facts(self) -> Facts:
        """What the table says of the model itself."""
        widths = [sum(self.graph.tensors[t].nbytes for t in self.graph.crossing(p)) for p in self.legal]
        narrowest = min(widths) if widths else None
        uncut = ""
        if not self.legal and len(bound_units(self.graph)) < 2:
            uncut = "all its operators use one variable" if self.graph.stateful else "one operator"
        return Facts(len(self.graph.operators), len(self.legal), narrowest, self.graph.stateful, uncut, self.note)

    def row(self, slices: int, seed: int, known: Mapping[str, Row]) -> Row:
        """Cut at random and compare, unless a row for exactly these slices is among `known` (by digest)."""
        empty = Row(self.model.name, self.runtime, slices, seed, "none", 0, True)
        chosen = random_groups(self.graph, self.legal, slices, seed)
        if chosen is None:
            return replace(empty, detail=f"no {slices} slices: {len(self.legal)} cuts")
        kind, groups = chosen
        chain = [link(piece) for piece in iter_slices(self.data, self.graph, groups)]
        digest = _digest(chain)
        row = replace(empty, kind=kind, digest=digest)
        if seed == 0 and digest != _digest(map(link, iter_slices(self.data, self.graph, groups))):
            return replace(row, equal=False, detail="cut twice, the slices have other bytes")
        if digest in known:
            old = known[digest]
            return replace(row, frames=old.frames, equal=old.equal, detail=old.detail)
        try:
            report = verify_chain(self.data, self.graph, chain, self.load, self.frames(seed), path=self.model.path)
            if self.graph.stateful and report.equal:
                report = self._all_that_crosses(chain, seed)
        except SliceMQError as error:
            return replace(row, equal=False, detail=f"{error} ({_said(groups)})")
        detail = f"{report.differences[0]} ({_said(groups)})" if report.differences else ""
        return replace(row, frames=report.frames, equal=report.equal, detail=detail)

    def _all_that_crosses(self, chain: Sequence[Link], seed: int) -> VerifyReport:
        """As verify_chain, with all tensors that the slices hand on as outputs of the whole.

        The output of a wake word model is 0 for nearly every frame: what leads to it tells more.
        """
        graph = self.graph
        crossing = [t for t in dict.fromkeys(t for item in chain for t in item.outputs) if t not in graph.outputs]
        traced = replace(graph, outputs=(*graph.outputs, *crossing))
        whole = next(iter_slices(self.data, traced, [graph.steps]))
        positions = replace(traced, outputs=whole.outputs)
        return verify_chain(self.data, positions, chain, self._open_or(whole.data), self.frames(seed), path=_WHOLE)

    def _open_or(self, whole: bytes) -> Load:
        return lambda model: self._open(whole if isinstance(model, Path) else model)

    def frames(self, seed: int) -> Iterator[tuple[str, Mapping[int, Array]]]:
        """Frames of one chain: random ones, and a picture where the model takes pictures.

        A model with state gets 50 in a row; another one gets a random frame, and for every third seed one with odd
        numbers besides.
        """
        graph = self.graph
        if graph.stateful:
            for number in range(STATEFUL_FRAMES):
                yield f"random {seed}, frame {number}", random_inputs(graph, 1000 * seed + number)
            return
        arrays = random_inputs(graph, seed)
        yield f"random {seed}", arrays
        if seed % 3 == 0 and any(a.dtype == np.float32 for a in arrays.values()):
            yield f"odd numbers {seed}", {t: odd_numbers(a, seed, finite=seed % 2 == 0) for t, a in arrays.items()}
        shape = graph.tensors[graph.inputs[0]].shape
        files = pictures()
        if len(graph.inputs) == 1 and len(shape) == 4 and shape[0] == 1 and shape[3] == 3 and files:
            path = files[seed % len(files)]
            yield path.name, {graph.inputs[0]: self._picture(path, shape)}

    def _picture(self, path: Path, shape: Sequence[int]) -> Array:
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((shape[2], shape[1])), np.int16)[None]
        dtype = self.graph.tensors[self.graph.inputs[0]].dtype
        if dtype == "int8":
            return (pixels - 128).astype(np.int8)
        return pixels.astype(dtype) if self.model.bytes_in else (pixels / 127.5 - 1.0).astype(dtype)


@dataclass
class Remembered:
    """An interpreter of a model without state that runs each frame only once."""

    native: Interpreter
    outputs: int
    _arrays: dict[int, Array] = field(default_factory=dict)
    _answers: dict[bytes, list[Array]] = field(default_factory=dict)
    _last: list[Array] = field(default_factory=list)

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """The inputs in the file's order."""
        return self.native.inputs

    def set_input(self, position: int, array: Array) -> None:
        """Keep an input for `invoke`."""
        self._arrays[position] = array

    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Give each input a new shape and allocate again."""
        self.native.resize(shapes)

    def invoke(self) -> None:
        """Run the model, unless it has seen these inputs."""
        digest = hashlib.sha256()
        for position, array in sorted(self._arrays.items()):
            digest.update(f"{position} {array.dtype} {array.shape};".encode() + array.tobytes())
        if digest.digest() not in self._answers:
            for position, array in self._arrays.items():
                self.native.set_input(position, array)
            self.native.invoke()
            self._answers[digest.digest()] = [self.native.output(i) for i in range(self.outputs)]
        self._last = self._answers[digest.digest()]

    def output(self, position: int) -> Array:
        """An output of the last run."""
        return self._last[position]


def odd_numbers(array: Array, seed: int, *, finite: bool) -> Array:
    """`array` with some of its float32 replaced: a tenth by zeros of both signs, subnormal, tiny and large numbers,
    or, not finite, one in 500 by infinities and NaN of both signs (more would leave nothing else at the end).
    """
    if array.dtype != np.float32:
        return array
    rng = np.random.default_rng(seed)
    numbers = [0.0, -0.0, 1e-40, -1e-45, 1e-30, 300.0, -3e4, 1.0, -1.0]
    odd = np.array(numbers if finite else [np.nan, -np.nan, np.inf, -np.inf], np.float32)
    made = array.copy().reshape(-1)
    places = rng.permutation(made.size)[: max(1, made.size // (10 if finite else 500))]
    made[places] = rng.choice(odd, places.size)
    return made.reshape(array.shape)


def random_groups(
    graph: Graph, legal: Sequence[int], slices: int, seed: int
) -> tuple[str, Sequence[Sequence[int]]] | None:
    """(kind as in Row, groups): random cuts in the file's order; for every third seed, and where there are not
    enough of them, in a random order in which the operators could run as well. None when nothing is found.
    """
    rng = random.Random(f"{slices}/{seed}")
    runs = groups_at(graph, sorted(rng.sample(legal, slices - 1))) if len(legal) >= slices - 1 else None
    if runs is None or seed % 3 == 2:
        units = bound_units(graph)
        for _ in range(_TRIES if len(units) >= slices else 0):
            groups = _scattered(graph, units, slices, rng)
            try:
                parts(graph, groups)
            except CutError:
                continue
            place = {step: i for i, step in enumerate(graph.steps)}
            if any(place[group[-1]] - place[group[0]] >= len(group) for group in groups):
                return "branches", groups
            if runs is None:
                return "cuts", groups
    return ("cuts", runs) if runs is not None else None


def bound_units(graph: Graph) -> list[list[int]]:
    """The steps in sets that only one slice can have: single ones, and those between users of one variable."""
    after: dict[int, int] = {}  # step -> bit set of itself and the steps that depend on it
    for step in reversed(graph.steps):
        reach = 1 << step
        for tensor in graph.operators[step].outputs:
            for reader in graph.consumers.get(tensor, ()):
                reach |= after[reader]
        after[step] = reach
    owner = {step: step for step in graph.steps}
    bound = [{s for s in group if s in owner} for group in graph.together]
    while True:
        for members in bound:
            reach = 0
            for step in members:
                reach |= after[step]
            bits = sum(1 << step for step in members)
            members.update(s for s in graph.steps if reach >> s & 1 and after[s] & bits)
        merged = _merged(bound, after)
        if merged == bound:
            break
        bound = merged
    for members in bound:
        owner.update(dict.fromkeys(members, min(members, default=0)))
    units: dict[int, list[int]] = {}
    for step in graph.steps:
        units.setdefault(owner[step], []).append(step)
    return list(units.values())


def _merged(sets: list[set[int]], after: Mapping[int, int]) -> list[set[int]]:
    """The first two sets that overlap, or of which each needs the other, as one set."""
    bits = [sum(1 << step for step in members) for members in sets]
    for i, first in enumerate(sets):
        for j in range(i + 1, len(sets)):
            forth = any(after[step] & bits[j] for step in first)
            back = any(after[step] & bits[i] for step in sets[j])
            if bits[i] & bits[j] or (forth and back):
                rest = [members for k, members in enumerate(sets) if k not in (i, j)]
                return [*rest, first | sets[j]]
    return sets


def _scattered(graph: Graph, units: list[list[int]], slices: int, rng: random.Random) -> list[list[int]]:
    """A random order of the units that mostly follows one branch to its end, cut at random places."""
    home = {step: number for number, unit in enumerate(units) for step in unit}
    needs: list[set[int]] = [set() for _ in units]
    gives: list[set[int]] = [set() for _ in units]
    for tensor, readers in graph.consumers.items():
        maker = home.get(graph.producer.get(tensor, -1))
        for reader in readers:
            if maker is not None and maker != home[reader]:
                needs[home[reader]].add(maker)
                gives[maker].add(home[reader])
    waiting = [len(need) for need in needs]
    ready = [number for number, count in enumerate(waiting) if not count]
    order: list[int] = []
    fresh: list[int] = []
    while ready:
        chosen = rng.choice(fresh if fresh and rng.random() < 0.9 else ready)
        ready.remove(chosen)
        order.append(chosen)
        fresh = []
        for number in sorted(gives[chosen]):
            waiting[number] -= 1
            if not waiting[number]:
                ready.append(number)
                fresh.append(number)
    bounds = [0, *sorted(rng.sample(range(1, len(order)), slices - 1)), len(order)]
    pieces = [order[a:b] for a, b in pairwise(bounds)]
    place = {step: i for i, step in enumerate(graph.steps)}
    return [sorted((step for number in piece for step in units[number]), key=place.__getitem__) for piece in pieces]


def _digest(chain: Iterable[Link]) -> str:
    digest = hashlib.sha256()
    for item in chain:
        assert isinstance(item.model, bytes)
        digest.update(f"{item.inputs} {item.outputs};".encode() + hashlib.sha256(item.model).digest())
    return digest.hexdigest()[:16]


def _said(groups: Sequence[Sequence[int]]) -> str:
    """Groups as ranges of operators: `0-12,15 | 13-14`."""
    words = []
    for group in groups:
        runs: list[list[int]] = []
        for step in group:
            if runs and step == runs[-1][1] + 1:
                runs[-1][1] = step
            else:
                runs.append([step, step])
        words.append(",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs))
    return "slices " + " | ".join(words)
