"""The layers of the four models of arXiv 2210.12219, so that its experiment needs no TensorFlow.

    python -m benchmarks.paper_layers

It reads the architectures from Keras applications (no weights, default inputs, ImageNet head) and writes
benchmarks/data/paper_layers.json: per model a list of layers in topological order, each with its name, the places
of the layers that it reads, the elements of its output at batch 1 and its number of parameters.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data" / "paper_layers.json"
MODELS = ("MobileNetV2", "EfficientNetB1", "ResNet50", "InceptionResNetV2")


@dataclass(frozen=True)
class Layer:
    """A layer: the places of those that it reads, elements of its output at batch 1, number of parameters."""

    name: str
    reads: tuple[int, ...]
    elements: int
    parameters: int


def read_layers(model: str, path: Path = DATA) -> tuple[Layer, ...]:
    """The layers of one of MODELS, from the committed file."""
    rows = json.loads(path.read_text())[model]
    return tuple(Layer(name, tuple(reads), elements, parameters) for name, reads, elements, parameters in rows)


def cut_points(layers: Sequence[Layer]) -> tuple[int, ...]:
    """Places of the layers that every path from the input to the output passes; the first and last layer are two.

    A layer is one iff no edge leads past it in topological order, so one scan finds all. It is the same set as
    the paper's: layers that are alone at their depth and that no path from the cut point before avoids.
    """
    farthest = list(range(len(layers)))
    for place, layer in enumerate(layers):
        for source in layer.reads:
            farthest[source] = max(farthest[source], place)
    found, reached = [], 0
    for place in range(len(layers)):
        if reached <= place:
            found.append(place)
        reached = max(reached, farthest[place])
    return tuple(found)


def consumers(layers: Sequence[Layer]) -> list[int]:
    """How many layers read each layer's output."""
    count = [0] * len(layers)
    for layer in layers:
        for source in layer.reads:
            count[source] += 1
    return count


def rows_of(model: Any) -> list[tuple[str, list[int], int, int]]:
    """The rows of a Keras functional model for the file; the layers in an order in which edges go forward."""
    sources = {
        layer.name: [node.operation.name for node in layer._inbound_nodes[0].parent_nodes] for layer in model.layers
    }
    place: dict[str, int] = {}
    rows: list[tuple[str, list[int], int, int]] = []
    left = list(model.layers)
    while left:
        layer = next(one for one in left if all(name in place for name in sources[one.name]))
        left.remove(layer)
        place[layer.name] = len(rows)
        rows.append(
            (
                layer.name,
                [place[name] for name in sources[layer.name]],
                math.prod(side for side in layer.output.shape if side is not None),
                layer.count_params(),
            )
        )
    return rows


def main() -> int:
    """Write the file; the exit code is 0."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tensorflow import keras

    tables = {}
    for name in MODELS:
        keras.utils.clear_session()
        tables[name] = rows_of(getattr(keras.applications, name)(weights=None))
    lines = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]"
        for name, rows in tables.items()
    ]
    DATA.parent.mkdir(exist_ok=True)
    DATA.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for name in MODELS:
        layers = read_layers(name)
        print(f"{name}: {len(layers)} layers, {len(cut_points(layers))} cut points")
    return 0


if __name__ == "__main__":
    sys.exit(main())
