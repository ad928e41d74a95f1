"""What codecs make of real activations: bytes, processor time, and the error of the results.

    python -m benchmarks.codecs [--models face-full-range,birdnet] [--repeats 7] [--format json]

Each model runs on real input: detectors on pictures, BirdNET on a made-up song (a rising and falling tone in noise,
since no package brings a recorded one). At places spread over the model, the cheapest of their neighbourhood, all
tensors that cross are packed and unpacked with each codec. `bytes` is what remains of all of them together and,
after it, of the tensor that shrinks least; times are those of one thread, the least of several runs, per MB (10^6
bytes) of plain tensor, of the tensors that shrink (lz4 gives up early on others); the error is the largest
difference of an output relative to its largest magnitude when all that crosses at one place goes through the codec.
The last lines are what `coordinator/planner/tables/codec_costs.py` has as COSTS: the times on the model where they
are longest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.models import RealModel, pictures, real_models
from converters.codec_errors import CodecMeasures, Frame, measure_codecs, trace
from converters.graph import Graph, read_graph
from converters.runtime import Array, random_inputs
from converters.shapes import resolve_shapes
from coordinator.planner.tables.codec_costs import candidates, crossing
from coordinator.planner.tables.states import down_sets
from edge_node.runtime import open_interpreter
from slicemq import codecs
from slicemq.errors import SliceMQError

MODELS = ("face-full-range", "face-back", "birdnet", "mobilenetv2", "inceptionv3")
CODECS = ("lz4", "f16", "int8")
# Smaller ones are mostly the time of the calls.
_LEAST_BYTES = 10_000
# Tensors that a codec leaves larger than this share of their bytes would not be sent with it.
_SHRUNK = 0.95
_SAMPLES = 2
_ERROR_SECONDS = 60.0
_SONG_RATE = 48_000.0


@dataclass(frozen=True)
class Row:
    """One codec on one model; seconds per byte of the plain tensor, `places` of cuts, errors by place."""

    model: str
    codec: str
    tensors: int
    nbytes: int
    remains: float
    worst: float
    encode: float
    decode: float
    places: int
    error_median: float
    error_worst: float


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.codecs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default=",".join(MODELS), help="short names, with commas between")
    parser.add_argument("--repeats", type=int, default=7, help="runs of which the least time counts")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    known = real_models()
    try:
        for name in given.models.split(","):
            if name not in known or not known[name].path.is_file():
                raise SliceMQError(
                    f"{name}: no such model, or it is not here: see `make setup`, benchmarks.make_models"
                )
            print(name, file=sys.stderr, flush=True)
            rows += measure(known[name], given.repeats)
    except SliceMQError as error:
        sys.stderr.write(f"codecs: {error}\n")
        return error.exit_code
    if given.format == "json":
        print(json.dumps({"machine": describe_machine(), "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        table(rows)
    return 0


def measure(model: RealModel, repeats: int) -> list[Row]:
    """A row for each codec that is here."""
    data = model.path.read_bytes()
    load = partial(open_interpreter, threads=1)
    graph = resolve_shapes(data, read_graph(data), load)
    frames = samples(model, graph)
    down = down_sets(graph)
    places = candidates(graph, down)
    tensors = sorted({t for done in places for t in crossing(graph, done)})
    values = [frame[t] for frame in trace(data, graph, load, tensors, frames) for t in tensors]
    values = [array for array in values if array.nbytes >= _LEAST_BYTES]
    here = [codec for codec in CODECS if codec in codecs.available()]
    measures = measure_codecs(data, graph, load, places, here, samples=frames, seconds=_ERROR_SECONDS)
    return [row(model.name, codec, values, measures, repeats) for codec in here]


def samples(model: RealModel, graph: Graph) -> list[Frame]:
    """Pictures or a song, as the model takes them."""
    first = graph.inputs[0]
    shape = graph.tensors[first].shape
    if len(shape) == 4 and shape[3] == 3 and (files := pictures()):
        from PIL import Image

        found: list[Frame] = []
        for path in files[:_SAMPLES]:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB").resize((shape[2], shape[1])), np.float32)[None]
            found.append({first: pixels if model.bytes_in else pixels / 127.5 - 1.0})
        return found
    if len(shape) == 2 and shape[1] >= _SONG_RATE:
        return [{first: song(shape[1], seed)} for seed in range(_SAMPLES)]
    return [random_inputs(graph, seed) for seed in range(_SAMPLES)]


def song(length: int, seed: int) -> Array:
    """A tone that goes up and down between 2 and 6 kHz, six times a second, in noise."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(length) / _SONG_RATE
    pitch = 4000.0 + 2000.0 * np.sin(2 * np.pi * 6.0 * seconds + seed)
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / _SONG_RATE)
    loud = np.sin(2 * np.pi * 1.5 * seconds) > 0
    heard: Array = (tone * loud + 0.01 * rng.standard_normal(length)).astype(np.float32)
    return heard[None]


def row(model: str, codec: str, arrays: Sequence[Array], measures: CodecMeasures, repeats: int) -> Row:
    """The figures of one codec on these tensors."""
    plain, packed, worst, timed, encode, decode = 0, 0, 0.0, 0, 0.0, 0.0
    for array in arrays:
        used, data = codecs.encode(codec, array)
        plain += array.nbytes
        packed += len(data)
        worst = max(worst, len(data) / array.nbytes)
        if len(data) < _SHRUNK * array.nbytes:
            timed += array.nbytes
            encode += _least(partial(codecs.encode, codec, array), repeats)
            decode += _least(partial(codecs.decode, used, memoryview(data), array.dtype, array.shape), repeats)
    errors = sorted(measures.errors.get(codec, {0: 0.0}).values())
    return Row(
        model=model,
        codec=codec,
        tensors=len(arrays),
        nbytes=plain,
        remains=packed / plain,
        worst=worst,
        encode=encode / max(timed, 1),
        decode=decode / max(timed, 1),
        places=len(errors),
        error_median=statistics.median(errors),
        error_worst=errors[-1],
    )


def _least(run: Callable[[], object], repeats: int) -> float:
    least = float("inf")
    for _ in range(repeats):
        started = time.thread_time()
        run()
        least = min(least, time.thread_time() - started)
    return least


def table(rows: Sequence[Row]) -> None:
    """Print the rows, and what they say of each codec's time."""
    print(f"{describe_machine()}\n")
    print("| model | codec | tensors, MB | bytes, worst | encode ms/MB | decode ms/MB | error, worst |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in rows:
        error = "none" if codecs.is_lossless(one.codec) else f"{one.error_median:.1e}, {one.error_worst:.1e}"
        print(
            f"| {one.model} | {one.codec} | {one.tensors}, {one.nbytes / 1e6:.1f} "
            f"| {100 * one.remains:.0f} %, {100 * one.worst:.0f} % "
            f"| {_per_mb(one.encode)} | {_per_mb(one.decode)} | {error} |"
        )
    print()
    for codec in dict.fromkeys(one.codec for one in rows):
        mine = [one for one in rows if one.codec == codec]
        encode, decode = (max(getattr(one, side) for one in mine) for side in ("encode", "decode"))
        print(f"{codec}: encode {encode * 1e9:.2f}e-9, decode {decode * 1e9:.2f}e-9 seconds per byte")


def _per_mb(seconds: float) -> str:
    return f"{1e9 * seconds:.2f}" if seconds else "-"


if __name__ == "__main__":
    raise SystemExit(main())
