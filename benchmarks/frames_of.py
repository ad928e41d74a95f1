"""What is sent to a real model, and what the whole model answers: real pictures where it takes pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.models import RealModel, pictures
from converters.graph import read_graph
from converters.runtime import random_inputs
from converters.schema import open_model
from edge_node.runtime import open_interpreter
from emulator.load import Frame

Answer = dict[int, npt.NDArray[Any]]


def frames_of(model: RealModel, count: int = 3) -> list[Frame]:
    """`count` frames by whole-model tensor index: pictures for a model of one float picture, else random."""
    graph = read_graph(open_model(model.path))
    first = graph.tensors[graph.inputs[0]]
    shape = first.shape
    files = pictures()
    if len(graph.inputs) > 1 or len(shape) != 4 or shape[3] != 3 or first.dtype != "float32" or not files:
        return [random_inputs(graph, seed) for seed in range(count)]
    return [
        {graph.inputs[0]: _picture(files[number % len(files)], shape[2], shape[1], model)}
        for number in range(count)
    ]


def answers_of(model: RealModel, frames: list[Frame]) -> list[Answer]:
    """What the whole model makes of each frame in this machine's runtime, on one thread, by tensor index."""
    graph = read_graph(open_model(model.path))
    interpreter = open_interpreter(model.path, threads=1)
    found = []
    for frame in frames:
        for position, index in enumerate(graph.inputs):
            interpreter.set_input(position, frame[index])
        interpreter.invoke()
        found.append({index: np.array(interpreter.output(at)) for at, index in enumerate(graph.outputs)})
    return found


def distance(got: Answer, wanted: Answer) -> float:
    """The largest difference as a share of the output's largest magnitude.

    Exactly 0 only when all are equal bit for bit; infinite for another shape or a number that is none.
    """
    worst = 0.0
    for index, right in wanted.items():
        mine = got[index]
        if mine.dtype == right.dtype and mine.tobytes() == right.tobytes():
            continue
        if mine.shape != right.shape:
            return float("inf")
        apart = float(np.max(np.abs(mine.astype(np.float64) - right.astype(np.float64))))
        if not np.isfinite(apart):
            return float("inf")
        scale = float(np.max(np.abs(right.astype(np.float64)))) or 1.0
        worst = max(worst, apart / scale, float(np.finfo(np.float64).tiny))
    return worst


def _picture(path: Path, width: int, height: int, model: RealModel) -> npt.NDArray[Any]:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((width, height)), np.float32)[None]
    return pixels if model.bytes_in else pixels / np.float32(127.5) - np.float32(1.0)
