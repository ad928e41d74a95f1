"""What the coordinator has learnt and plans count in: corrections, what others use, which slices nodes hold. PURE.

Sets of operators are written as ranges (`0-41,43`), which are short, sortable and the same for the same set.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.intents import Blueprint
from coordinator.planner.model import Fleet, NodeSpec
from coordinator.planner.tables.sharing import Usage, shared

_MODELS = 32
_CUTS = 256
_MOST_OPERATORS = 1 << 20


@dataclass(frozen=True)
class Correction:
    """Measured over predicted seconds of some operators of a model on a node with one version of its runtime."""

    node: str
    runtime: str
    operators: str
    factor: float


@dataclass(frozen=True)
class Known:
    """What one plan is told of the nodes besides their capacities.

    held: node -> ranges of operators of the slices of this model whose files it has. corrections: of this model,
    the latest last. usage: node -> what the other pipelines use there.
    """

    corrections: tuple[Correction, ...] = ()
    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)


def ranges(operators: Iterable[int]) -> str:
    """A set of operators as ranges, in order."""
    found: list[list[int]] = []
    for operator in sorted(set(operators)):
        if found and operator == found[-1][1] + 1:
            found[-1][1] = operator
        else:
            found.append([operator, operator])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in found)


def operators_of(text: str) -> tuple[int, ...]:
    """The operators that `ranges` wrote, in order. Raises ValueError for what it did not write."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        a, b = int(first), int(last) if dash else int(first)
        if not 0 <= a <= b < _MOST_OPERATORS or (found and a <= found[-1]):
            raise ValueError(f"{text[:80]!r} are not ranges of operators")
        found.extend(range(a, b + 1))
    return tuple(found)


def operators_by_slice(plan: Mapping[str, Any]) -> dict[str, str]:
    """Slice -> ranges of its operators, from a plan file's content; what is not a slice is left out."""
    rows = plan.get("slices")
    return {
        str(row["id"]): ranges(row["operators"])
        for row in (rows if isinstance(rows, (list, tuple)) else ())
        if isinstance(row, Mapping) and "id" in row and _are_operators(row.get("operators"))
    }


def _are_operators(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(n) is int and 0 <= n < _MOST_OPERATORS for n in value)


def informed(fleet: Fleet, known: Known) -> Fleet:
    """The fleet with what is known of its nodes."""
    mine: dict[str, list[Correction]] = {}
    for correction in known.corrections:
        mine.setdefault(correction.node, []).append(correction)
    nodes = tuple(
        replace(
            _corrected(spec, mine.get(spec.id, [])),
            held=frozenset(operators_of(text) for text in known.held.get(spec.id, ())),
        )
        for spec in fleet.nodes
    )
    return shared(replace(fleet, nodes=nodes), known.usage)


def _corrected(spec: NodeSpec, corrections: list[Correction]) -> NodeSpec:
    if not corrections:
        return spec
    by_operator: dict[int, float] = {}
    for correction in corrections:
        by_operator.update(dict.fromkeys(operators_of(correction.operators), correction.factor))
    return replace(spec, corrections=by_operator, correction=mean_factor(corrections))


def mean_factor(corrections: Iterable[Correction]) -> float:
    """What operators that were not measured are corrected by: the geometric mean; 1 for none."""
    logs = [math.log(correction.factor) for correction in corrections]
    return round(math.exp(sum(logs) / len(logs)), 4) if logs else 1.0


def similar(one: Sequence[Correction], other: Sequence[Correction], share: float) -> bool:
    """Whether no operators of a node are corrected by factors that differ by more than `share`."""
    for place in {(item.node, item.runtime) for item in (*one, *other)}:
        before, after = ([item for item in items if (item.node, item.runtime) == place] for items in (one, other))
        pairs = [(mean_factor(before), mean_factor(after))]
        first, second = _by_operator(before), _by_operator(after)
        pairs += [(first.get(k, pairs[0][0]), second.get(k, pairs[0][1])) for k in first.keys() | second.keys()]
        if any(abs(math.log(a / b)) > math.log1p(share) for a, b in pairs):
            return False
    return True


def _by_operator(corrections: Iterable[Correction]) -> dict[int, float]:
    return {operator: item.factor for item in corrections for operator in operators_of(item.operators)}


class Cuts:
    """Which operators the files hold that were cut from each model: model -> file's hash -> ranges. Bounded."""

    def __init__(self) -> None:
        self._cuts: OrderedDict[str, OrderedDict[str, str]] = OrderedDict()

    def learn(self, model: str, blueprint: Blueprint) -> None:
        """Note the files of a made plan."""
        operators = operators_by_slice(blueprint.plan)
        for items in blueprint.slices.values():
            for item in items:
                if item.slice in operators:
                    self._put(model, item.artifact.sha256, operators[item.slice])

    def held(self, model: str, artifacts: Iterable[str]) -> tuple[str, ...]:
        """The slices of `model` among some files, as ranges."""
        cuts = self._cuts.get(model)
        return tuple(sorted({cuts[sha256] for sha256 in artifacts if sha256 in cuts})) if cuts is not None else ()

    def plain(self) -> dict[str, Any]:
        """In JSON's terms, for the store."""
        return {model: dict(cuts) for model, cuts in self._cuts.items()}

    def load(self, body: Any) -> None:
        """Take over what `plain` gave. Raises ValueError for anything else."""
        if not isinstance(body, dict):
            raise ValueError("cuts: expected an object, model -> files")
        for model, cuts in body.items():
            if not isinstance(cuts, dict) or not all(isinstance(text, str) for text in cuts.values()):
                raise ValueError(f"cuts.{model[:80]}: expected an object, hash -> ranges of operators")
            for sha256, text in cuts.items():
                operators_of(text)
                self._put(model, sha256, text)

    def _put(self, model: str, sha256: str, text: str) -> None:
        cuts = self._cuts.setdefault(model, OrderedDict())
        cuts[sha256] = text
        cuts.move_to_end(sha256)
        self._cuts.move_to_end(model)
        while len(cuts) > _CUTS:
            cuts.popitem(last=False)
        while len(self._cuts) > _MODELS:
            self._cuts.popitem(last=False)
