"""Symbolic models, and a planner that cuts them. PURE.

A model is a few operators. What an operator gives is no number but its own name with what went into it and the
revision that ran it. So a result tells how it came about: of which model and revision each part is, and of which
frame. A plan is a function of its inputs alone, as the real planner's is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from coordinator.intents import Blueprint, Intent
from slicemq.errors import InsufficientCapacityError
from slicemq.messages import Artifact, Bundle, Capacity, Lane, ResultPart, Route, SliceAssignment, TensorSpec
from slicemq.specs import spec_digest

MB = 1_000_000
_NO_REVISION = "1-00000000"
STAGE_SECONDS = 0.02


class _Dtype:
    name = "float32"


class Value:
    """A tensor: `what` says how it came about. It has what the ledger looks at of an array."""

    __slots__ = ("what",)
    dtype = _Dtype()
    shape = (1,)

    def __init__(self, what: Any) -> None:
        self.what = what

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """What comparisons of revisions see: the same of every model, but of one that is wrong."""
        return np.asarray([2.0 if "wrong" in str(self.what[0]) else 1.0], dtype)


@dataclass(frozen=True)
class Operator:
    """Takes and gives tensors by their index in the whole model."""

    takes: tuple[int, ...]
    gives: int


@dataclass(frozen=True)
class Model:
    """`name` is the shape, `version` another model of that shape; tensor 0 is the input.

    `flaw` is what is wrong with it, which its name tells too.
    """

    name: str
    version: int
    operators: tuple[Operator, ...]
    outputs: tuple[int, ...]
    flaw: Flaw = ""
    memory: int = 30 * MB

    @property
    def shape(self) -> str:
        """Its shape's name."""
        return self.name.partition("-")[0]

    @property
    def artifact(self) -> Artifact:
        """Its file."""
        return Artifact(_sha(f"model {self.name} {self.version}"), 100_000)


_SHAPES: dict[str, tuple[tuple[Operator, ...], tuple[int, ...]]] = {
    "chain": (tuple(Operator((k,), k + 1) for k in range(4)), (4,)),
    "diamond": ((Operator((0,), 1), Operator((1,), 2), Operator((1,), 3), Operator((2, 3), 4)), (4,)),
    "skip": ((Operator((0,), 1), Operator((1,), 2), Operator((2,), 3), Operator((1, 3), 4)), (4,)),
    "fork": ((Operator((0,), 1), Operator((1,), 2), Operator((1,), 3), Operator((3,), 4)), (2, 4)),
}
SHAPES = tuple(_SHAPES)
Flaw = Literal["", "golden", "wrong", "failing", "slow"]
"""Other results than in its golden file; than before; frames that end with an error; long computing."""
FLAWS: tuple[Flaw, ...] = ("golden", "wrong", "failing", "slow")


@lru_cache(4096)
def model(shape: str, version: int, flaw: Flaw = "") -> Model:
    """A model of a shape."""
    operators, outputs = _SHAPES[shape]
    return Model(f"{shape}-{flaw}" if flaw else shape, version, operators, outputs, flaw)


_BY_FILE: dict[str, Model] = {}
_SLICES: dict[str, tuple[Model, tuple[int, ...]]] = {}


def known(shape: str, version: int, flaw: Flaw = "") -> Model:
    """A model whose file planning can read."""
    made = model(shape, version, flaw)
    _BY_FILE[made.artifact.sha256] = made
    return made


def by_file(sha256: str) -> Model:
    """The model whose file this is."""
    return _BY_FILE[sha256]


def whole_of(artifact: str) -> Model:
    """The model that the slice in the file `artifact` was cut from."""
    return _SLICES[artifact][0]


def compute(artifact: str, revision: str, values: dict[int, Any]) -> dict[int, Any]:
    """What the slice in the file `artifact` gives for `values` (tensor index -> what); all its tensors."""
    whole, operators = _SLICES[artifact]
    found = dict(values)
    for number in operators:
        operator = whole.operators[number]
        found[operator.gives] = (
            whole.name,
            whole.version,
            revision,
            number,
            tuple(found[index] for index in operator.takes),
        )
    return found


def expected(whole: Model, revision: str, frame: Any) -> dict[int, Any]:
    """The right outputs for a frame of a revision of this model."""
    values: dict[int, Any] = {0: frame}
    for number, operator in enumerate(whole.operators):
        values[operator.gives] = (
            whole.name,
            whole.version,
            revision,
            number,
            tuple(values[index] for index in operator.takes),
        )
    return {index: values[index] for index in whole.outputs}


def plan(intent: Intent, nodes: Sequence[Capacity], avoid: frozenset[str]) -> Blueprint:
    """A blueprint on the nodes with the most room; those to be avoided are used when the others do not suffice.

    `intent.options`: `slices` is how many it is cut into if possible, `turns` over how many nodes each slice.
    Raises InsufficientCapacityError.
    """
    whole = _BY_FILE[intent.model.sha256]
    wanted = int(intent.options.get("slices", 2))
    turns = int(intent.options.get("turns", 1))
    for shunned in (avoid, frozenset[str]()) if avoid else (avoid,):
        room = tuple(
            (capacity.node, capacity.memory, capacity.worker_memory)
            for capacity in nodes
            if capacity.node not in shunned
        )
        for count, over in _choices(wanted, turns, len(whole.operators)):
            placed = _place(whole, room, count, over)
            if placed is not None:
                return _blueprint(intent.name, whole, placed, over)
    raise InsufficientCapacityError(
        f"{len(nodes)} nodes with {sum(c.memory for c in nodes) // MB} MB free have no room for the model"
    )


def _choices(wanted: int, turns: int, most: int) -> Iterable[tuple[int, int]]:
    counts = [*range(wanted, most + 1), *range(wanted - 1, 0, -1)]
    return [(count, over) for over in ((turns, 1) if turns > 1 else (1,)) for count in counts]


Placed = tuple[tuple[tuple[int, ...], tuple[str, ...]], ...]
"""(operators, nodes) of each slice."""


def _place(whole: Model, room: tuple[tuple[str, int, int], ...], count: int, over: int) -> Placed | None:
    """`count` slices of neighbouring operators, each on `over` nodes with most room; None if they do not fit."""
    free = {node: memory for node, memory, _ in room}
    worker = {node: memory for node, _, memory in room}
    total = len(whole.operators)
    found = []
    for number in range(count):
        operators = tuple(range(total * number // count, total * (number + 1) // count))
        memory = len(operators) * whole.memory
        taken = sorted((node for node in free if free[node] >= memory), key=lambda node: (-free[node], node))[:over]
        if len(taken) < over:
            return None
        for node in taken:
            free[node] -= memory + worker[node]
        found.append((operators, tuple(taken)))
    return tuple(found)


@lru_cache(4096)
def _blueprint(name: str, whole: Model, placed: Placed, turns: int) -> Blueprint:
    digest = _sha(f"{name} {whole.name} {whole.version} {placed} {turns}")
    of = {number: place for place, (operators, _) in enumerate(placed) for number in operators}
    consumers: dict[int, list[int]] = {}
    for number, operator in enumerate(whole.operators):
        for index in operator.takes:
            if of[number] not in consumers.setdefault(index, []):
                consumers[index].append(of[number])
    source = {operator.gives: of[number] for number, operator in enumerate(whole.operators)}
    # (source, consumers) -> tensors; the source None is the client.
    edges: dict[tuple[int | None, tuple[int, ...]], list[int]] = {}
    for index, takers in sorted(consumers.items()):
        others = tuple(taker for taker in takers if taker != source.get(index))
        if others:
            edges.setdefault((source.get(index), others), []).append(index)
    bundles = [
        (edge, Bundle(f"b{number}", tuple(map(_spec, tensors))))
        for number, (edge, tensors) in enumerate(edges.items())
    ]
    results = [place for place in range(len(placed)) if any(source[index] == place for index in whole.outputs)]
    slices: dict[str, tuple[SliceAssignment, ...]] = {}
    for place, (operators, nodes) in enumerate(placed):
        inputs = tuple(bundle for (_, takers), bundle in bundles if place in takers)
        outputs = tuple(bundle for (origin, _), bundle in bundles if origin == place)
        mine = tuple(index for index in whole.outputs if source[index] == place)
        part = ResultPart(results.index(place), len(results), tuple(map(_spec, mine))) if mine else None
        artifact = Artifact(_sha(f"{whole.name} {whole.version} {operators}"), 50_000 * len(operators))
        _SLICES[artifact.sha256] = (whole, operators)
        gives = [spec.index for bundle in outputs for spec in bundle.tensors]
        for number, node in enumerate(nodes):
            item = SliceAssignment(
                pipeline=name,
                revision=_NO_REVISION,
                slice=f"s{place}",
                artifact=artifact,
                memory=len(operators) * whole.memory,
                takes=tuple(spec.index for bundle in inputs for spec in bundle.tensors),
                gives=tuple(dict.fromkeys([*gives, *mine])),
                inputs=inputs,
                outputs=outputs,
                result=part,
                turns=(number,),
                of=turns,
            )
            slices[node] = (*slices.get(node, ()), item)
    entry = tuple(bundle for (origin, _), bundle in bundles if origin is None)
    if turns == 1:
        route = Route(_NO_REVISION, "active", 1.0, entry, len(results))
    else:
        lane = Lane(tuple(range(turns)), entry, len(results))
        route = Route(_NO_REVISION, "active", 1.0, (), 0, turns, (lane,))
    taken, given = (_spec(0),), tuple(map(_spec, whole.outputs))
    rows = [
        {
            "id": f"s{place}",
            "operators": list(operators),
            "nodes": list(nodes),
            "turns": [[number] for number in range(turns)],
            "compute_ms": 1e3 * STAGE_SECONDS,
        }
        for place, (operators, nodes) in enumerate(placed)
    ]
    return Blueprint(
        digest=digest,
        plan={"slices": rows, "turns": turns},
        slices=slices,
        route=route,
        inputs=taken,
        outputs=given,
        spec=spec_digest(taken, given),
        window=4 * turns,
        stage_seconds={f"s{place}": STAGE_SECONDS for place in range(len(placed))},
    )


def _spec(index: int) -> TensorSpec:
    return TensorSpec(index, f"t{index}", "float32", (1,))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
