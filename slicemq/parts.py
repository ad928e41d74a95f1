"""The parts of one frame's answer, from one revision only (protocol rule 3). PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt

from slicemq.messages import PipelineDocument, Route, TensorSpec
from slicemq.specs import matches

Tensors = dict[int, npt.NDArray[Any]]
Refusal = Literal["parts", "double", "tensors"]


def inputs_of(route: Route, document: PipelineDocument) -> tuple[int, ...]:
    """The indices, in the route's model, of the document's inputs, in their order."""
    return route.inputs or tuple(spec.index for spec in document.inputs)


def outputs_of(route: Route, document: PipelineDocument) -> tuple[int, ...]:
    """The indices, in the route's model, of the document's outputs, in their order."""
    return route.outputs or tuple(spec.index for spec in document.outputs)


def route_fault(route: Route, document: PipelineDocument) -> str:
    """What makes a route of the document unusable for a client, or the empty text."""
    where = f"route {route.revision}"
    for word, given, specs in (
        ("inputs", route.inputs, document.inputs),
        ("outputs", route.outputs, document.outputs),
    ):
        if given and len(given) != len(specs):
            return f"{where}: {word}: {len(given)} tensors, expected {len(specs)}"
        if given and len(set(given)) != len({spec.index for spec in specs}):
            return f"{where}: {word}: one tensor stands for two"
    known = set(inputs_of(route, document))
    for bundle in (bundle for lane in route.ways() for bundle in lane.entry):
        for spec in bundle.tensors:
            if spec.index not in known:
                return f"{where}: bundle {bundle.id}: tensor {spec.index} is not an input"
    if document.stateful and route.turns > 1:
        return f"{where}: {route.turns} turns, expected 1 of a stateful pipeline"
    return ""


@dataclass
class Parts:
    """What came of an answer. `first` is when the frame was first sent; `outputs` are as from `outputs_of`."""

    first: float
    parts: int
    outputs: tuple[int, ...]
    got: dict[int, Tensors] = field(default_factory=dict)

    def specs(self, outputs: Sequence[TensorSpec]) -> dict[int, TensorSpec]:
        """What this revision's tensors must be, by their index in its model."""
        return dict(zip(self.outputs, outputs, strict=False))

    def add(
        self,
        part: int,
        parts: int,
        tensors: Mapping[int, npt.NDArray[Any]],
        outputs: Sequence[TensorSpec],
    ) -> Tensors | Refusal | None:
        """Take a part in: the whole answer by the indices of `outputs`, None while parts lack, or why not."""
        if parts != self.parts or not 0 <= part < self.parts:
            return "parts"
        if part in self.got:
            return "double"
        wanted = self.specs(outputs)
        if not all(index in wanted and matches(wanted[index], array) for index, array in tensors.items()):
            return "tensors"
        self.got[part] = dict(tensors)
        if len(self.got) < self.parts:
            return None
        joined = {index: array for one in self.got.values() for index, array in one.items()}
        if set(joined) != set(wanted) or len(joined) != sum(map(len, self.got.values())):
            self.got.clear()
            return "tensors"
        return {spec.index: joined[index] for index, spec in wanted.items()}
