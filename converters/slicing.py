"""Cuts -> slices: groups of operators, the bundles between them, and each group's own .tflite (pure).

A *group* lists the operators of one slice by their index in the file; groups come in an order in which each one
needs only earlier ones. Constant and recomputed operators join each group that uses what they make; dead ones are
in none. An output of the model that no step makes (a constant, or an input passed through) belongs to the last
slice.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from converters import schema
from converters.crossings import summed
from converters.flatbuffer import write_slice
from converters.graph import Graph
from slicemq import codecs
from slicemq.errors import CutError

Groups = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Slice:
    """A .tflite cut out of a model.

    id: `s0`, `s1` ... in the order of the groups. operators: by their index in the model, constant ones included.
    inputs, outputs: indices of the whole model's tensors, in the order of the slice file's own inputs and outputs.
    """

    id: str
    operators: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sha256: str
    data: bytes


@dataclass(frozen=True)
class Edge:
    """A bundle: the tensors that one slice (None: the client) sends to one set of slices, by slice number."""

    id: str
    source: int | None
    targets: tuple[int, ...]
    tensors: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """What one group is made of, by the model's indices; `inputs` and `outputs` as in Slice."""

    operators: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def groups_at(graph: Graph, positions: Sequence[int]) -> list[list[int]]:
    """Cut `graph.steps` before each of `positions` (1 to len(steps) - 1, rising). Raises CutError."""
    last = len(graph.steps) - 1
    for before, position in pairwise((0, *positions)):
        if not before < position <= last:
            raise CutError(f"cuts at {list(positions)}: expected rising positions between 1 and {last}")
    bounds = [0, *positions, len(graph.steps)]
    return [list(graph.steps[a:b]) for a, b in pairwise(bounds)]


def legal_positions(graph: Graph) -> tuple[int, ...]:
    """Where `graph.steps` can be cut by `groups_at`: each tensor that crosses can travel in a frame, the step
    before depends on an input of the model (so that no slice is without inputs), no variable is used on both
    sides, and no shape that the runtime knows before it runs would come from outside (`converters.dynamic`).
    """
    blocked = _blocked(graph)
    fed = set(graph.inputs)
    found = []
    for position, step in enumerate(graph.steps[:-1], start=1):
        if fed.intersection(graph.reads[step]):
            fed.update(graph.operators[step].outputs)
            fed.discard(-1)
            if not blocked[position]:
                found.append(position)
    return tuple(found)


def _blocked(graph: Graph) -> tuple[int, ...]:
    """For each position the number of reasons, whatever they are, not to cut there."""
    place = {step: i for i, step in enumerate(graph.steps)}
    reasons = [
        (1, first, last)
        for t, first, last in graph.spans
        if graph.tensors[t].dtype not in codecs.DTYPES or (t in graph.prepared and not graph.dynamic)
    ]
    for steps in graph.together:
        places = [place[step] for step in steps]
        reasons.append((1, min(places) + 1, max(places)))
    return summed(len(graph.steps) + 1, reasons)


def cut_positions(graph: Graph, tensors: Sequence[str]) -> list[int]:
    """The positions right after the operators that make `tensors` (each a name, or an index in decimal digits).

    Raises CutError for a name that does not exist (and lists near ones), that several tensors have (and lists
    their indices), or after which one cannot cut.
    """
    place = {step: i for i, step in enumerate(graph.steps)}
    positions = set()
    for text in tensors:
        index = _tensor(graph, text)
        what = f"cut {text!r} (tensor {index})"
        maker = graph.producer.get(index)
        if maker is not None and graph.operators[maker].recomputed:
            # It runs in every slice that reads it: the cut is where it would have run.
            position = sum(graph.place[step] < graph.place[maker] for step in graph.steps)
            if not 0 < position < len(graph.steps):
                raise CutError(f"{what} is made by the first operator, which every slice that reads it runs itself")
            positions.add(position)
            continue
        if maker is None:
            kind = "an input of the model" if index in graph.inputs else "a constant"
            raise CutError(f"{what} is {kind}: expected a tensor that an operator makes")
        if maker not in place:
            kind = "made from constants only" if graph.operators[maker].constant else "used by no output"
            raise CutError(f"{what} is {kind}: there is nothing to cut")
        if place[maker] == len(graph.steps) - 1:
            raise CutError(f"{what} is made by the last operator: nothing comes after it")
        positions.add(place[maker] + 1)
    return sorted(positions)


def _tensor(graph: Graph, text: str) -> int:
    named = [t.index for t in graph.tensors if t.name == text]
    if len(named) == 1:
        return named[0]
    if named:
        listed = ", ".join(str(i) for i in named[:20])
        raise CutError(f"cut {text!r}: {len(named)} tensors have this name; give one by its index: {listed}")
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < len(graph.tensors):
        return int(text)
    made = [t.name for t in graph.tensors if t.index in graph.producer and not t.constant]
    near = difflib.get_close_matches(text, made, n=5, cutoff=0.5)
    part = [name for name in made if text and text.lower() in name.lower()]
    hints = list(dict.fromkeys([*near, *part]))[:5]
    hint = f"near names: {', '.join(hints)}" if hints else f"the model has tensors 0 to {len(graph.tensors) - 1}"
    raise CutError(f"cut {text!r}: no tensor has this name; {hint}")


def parts(graph: Graph, groups: Groups) -> list[Part]:
    """Each group's operators, inputs and outputs. Raises CutError unless the groups are a sound partition.

    Sound: each step is in exactly one group, no group is empty, and each reads only what earlier ones make.
    """
    home = _home(graph, groups)
    outputs = set(graph.outputs)
    rest = tuple(t for t in dict.fromkeys(graph.outputs) if graph.producer.get(t) not in home)
    readers: dict[int, set[int]] = {}
    reads_of: list[set[int]] = []
    for number, group in enumerate(groups):
        steps = {i for i in group if i in home}
        reads = {t for i in steps for t in graph.reads[i]}
        made = {t for i in steps for t in graph.operators[i].outputs if t >= 0}
        if number == len(groups) - 1:
            reads.update(rest)
        for tensor in reads - made:
            if not graph.tensors[tensor].constant and not graph.tensors[tensor].variable:
                readers.setdefault(tensor, set()).add(number)
        reads_of.append(reads)
    inputs_of: list[set[int]] = [set() for _ in groups]
    for tensor, numbers in readers.items():
        for number in numbers:
            inputs_of[number].add(tensor)
    found = []
    for number, group in enumerate(groups):
        steps = {i for i in group if i in home}
        inside = {t for i in steps for t in graph.operators[i].outputs if t >= 0}
        inputs = inputs_of[number]
        for tensor in inputs:
            _check_travel(graph, tensor, is_input=tensor in graph.inputs)
            source = home.get(graph.producer.get(tensor, -1), -1)
            if source > number:
                raise CutError(
                    f"group {number} reads tensor {tensor} ({graph.tensors[tensor].name}), which the later group "
                    f"{source} makes: expected groups in the order in which they can run"
                )
        made = {t for t in inside if t in outputs or t in readers}
        if number == len(groups) - 1:
            made.update(rest)
        if not inputs:
            raise CutError(f"group {number} reads nothing that changes from frame to frame: it cannot be a slice")
        found.append(
            Part(
                graph.closure(steps, sorted(reads_of[number])),
                _ordered(inputs, graph.inputs),
                _ordered(made, graph.outputs),
            )
        )
    return found


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _home(graph: Graph, groups: Groups) -> dict[int, int]:
    """Step -> number of its group."""
    home: dict[int, int] = {}
    placed = set(graph.steps)
    for number, group in enumerate(groups):
        size = len(home)
        for index in group:
            if not 0 <= index < len(graph.operators):
                raise CutError(f"group {number}: operator {index}, the model has {len(graph.operators)}")
            if index not in placed:
                continue
            if index in home:
                raise CutError(f"operator {index} is in group {home[index]} and in group {number}")
            home[index] = number
        if len(home) == size:
            raise CutError(f"group {number} has no operator that any output of the model depends on")
    for variable in graph.variables:
        homes = sorted({home[step] for step in variable.steps if step in home})
        if len(homes) > 1:
            raise CutError(
                f"{variable.name} keeps its value between frames and is used in groups {_listed(homes[:5])}: "
                f"expected its operators {_listed(variable.steps[:20])} in one group"
            )
    missing = [i for i in graph.steps if i not in home]
    if missing:
        raise CutError(f"operators in no group: {', '.join(map(str, missing[:20]))}")
    return home


def _check_travel(graph: Graph, index: int, is_input: bool) -> None:
    tensor = graph.tensors[index]
    if not is_input and tensor.dtype not in codecs.DTYPES:
        raise CutError(f"tensor {index} ({tensor.name}) would cross a cut, and {tensor.dtype} cannot travel")


def _ordered(tensors: set[int], first: tuple[int, ...]) -> tuple[int, ...]:
    """`tensors` in the order of `first` (the model's own inputs or outputs), then the others by index."""
    head = [t for t in dict.fromkeys(first) if t in tensors]
    return (*head, *sorted(tensors.difference(head)))


def edges(graph: Graph, groups: Groups) -> tuple[Edge, ...]:
    """The bundles `b0`, `b1` ... between the groups, those from the client first; results are not among them.

    A tensor goes straight to each group that reads it, however many groups lie between. An input of the model that
    nothing reads is in no bundle.
    """
    made_by = {t: n for n, part in enumerate(parts(graph, groups)) for t in part.outputs if t not in graph.inputs}
    targets: dict[int, list[int]] = {}
    for number, part in enumerate(parts(graph, groups)):
        for tensor in part.inputs:
            targets.setdefault(tensor, []).append(number)
    bundles: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for tensor in (*dict.fromkeys(graph.inputs), *sorted(targets.keys() - set(graph.inputs))):
        if tensor in targets:
            bundles.setdefault((made_by.get(tensor, -1), tuple(targets[tensor])), []).append(tensor)
    return tuple(
        Edge(f"b{i}", None if source < 0 else source, to, tuple(bundles[source, to]))
        for i, (source, to) in enumerate(sorted(bundles))
    )


def result_parts(graph: Graph, groups: Groups) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """(slice number, the outputs of the model that it makes), for each slice that makes any."""
    wanted = set(graph.outputs)
    rows = ((n, tuple(t for t in part.outputs if t in wanted)) for n, part in enumerate(parts(graph, groups)))
    return tuple(row for row in rows if row[1])


def iter_slices(data: schema.Bytes, graph: Graph, groups: Groups) -> Iterator[Slice]:
    """Make the slices one at a time, so that a large model's slices need not be in memory together.

    Raises CutError for groups that are not a sound partition, ModelError for bytes that do not hold together.
    """
    for number, part in enumerate(parts(graph, groups)):
        content = write_slice(data, graph, part.operators, part.inputs, part.outputs)
        digest = hashlib.sha256(content).hexdigest()
        yield Slice(f"s{number}", part.operators, part.inputs, part.outputs, digest, content)


def slice_model(data: schema.Bytes, graph: Graph, groups: Groups) -> list[Slice]:
    """All slices of `groups`; see `iter_slices`. `graph` must be `read_graph(data)`."""
    return list(iter_slices(data, graph, groups))
