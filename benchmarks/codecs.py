"""What codecs make of real activations: bytes, processor time, and the error of the results.

    python -m benchmarks.codecs [--models face-full-range,birdnet] [--repeats 7] [--format json] [--write]

Each model runs on real input: detectors on pictures, BirdNET on a made-up song (a rising and falling tone in noise,
since no package brings a recorded one). At places spread over the model, the cheapest of their neighbourhood, all
tensors that cross are packed and unpacked with each codec, in memory that is there already. `bytes` is what remains
of all of them together and, after it, of the tensor that shrinks least; times are those of one thread, the least
of several runs, per MB (10^6 bytes) of plain tensor, of the tensors that are sent with the codec and not raw; the
error is the largest difference of an output relative to its largest magnitude when all that crosses at one place
goes through the codec: the median of the places, and the worst.
`defer` is what DEFER (Parthasarathy and Krishnamachari, 2022) sends: ZFP without loss, of the array with its batch
axis, in an LZ4 frame; not a codec of SliceMQ's.
The last lines are what `coordinator/planner/tables/codec_costs.py` has as COSTS. `--write` puts all of it into
docs/reference/codecs.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.models import RealModel, pictures, real_models
from benchmarks.pages import ROOT, write_region
from converters.codec_errors import Frame, measure_codecs, trace
from converters.graph import Graph, read_graph
from converters.runtime import Array, random_inputs
from converters.shapes import resolve_shapes
from coordinator.planner.tables.codec_costs import candidates, crossing
from coordinator.planner.tables.states import down_sets
from edge_node.runtime import open_interpreter
from slicemq import codecs
from slicemq.errors import SliceMQError

MODELS = ("face-full-range", "face-back", "birdnet", "mobilenetv2", "inceptionv3", "resnet50")
DEFER = "defer"
PAGE = ROOT / "docs" / "reference" / "codecs.md"
_PACKAGES = ("numpy", "lz4", "zstandard", "zfpy")
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
    parser.add_argument("--error-seconds", type=float, default=_ERROR_SECONDS, help="for the errors of a model")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reference/codecs.md")
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
            rows += measure(known[name], given.repeats, given.error_seconds)
        if given.write:
            write_region("codecs", table(rows), PAGE)
    except SliceMQError as error:
        sys.stderr.write(f"codecs: {error}\n")
        return error.exit_code
    if given.format == "json":
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(table(rows))
    return 0


def machine() -> str:
    """Processor and versions, those of the codecs' packages included."""
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{describe_machine()}, {', '.join(versions)}"


def measure(model: RealModel, repeats: int, error_seconds: float) -> list[Row]:
    """A row for each codec that is here, and one for DEFER's."""
    data = model.path.read_bytes()
    load = partial(open_interpreter, threads=1)
    graph = resolve_shapes(data, read_graph(data), load)
    frames = samples(model, graph)
    down = down_sets(graph)
    places = candidates(graph, down)
    tensors = sorted({t for done in places for t in crossing(graph, done)})
    values = [frame[t] for frame in trace(data, graph, load, tensors, frames) for t in tensors]
    values = [array for array in values if array.nbytes >= _LEAST_BYTES]
    here = codecs.available()
    errors: dict[str, Mapping[int, float]] = {}
    # One call leaves out the slow codecs where a quick one does as well.
    for some in (False, True):
        names = [codec for codec in here if codecs.is_slow(codec) == some and not codecs.is_lossless(codec)]
        found = measure_codecs(data, graph, load, places, names, samples=frames, seconds=error_seconds / 2)
        errors.update(found.errors)
    title = model.name if model.packaged else f"{model.name} (random)"
    rows = [row(title, codec, values, errors.get(codec, {}), repeats) for codec in here]
    return [*rows, *_defer(title, values)]


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


def row(model: str, codec: str, arrays: Sequence[Array], errors: Mapping[int, float], repeats: int) -> Row:
    """The figures of one codec on these tensors."""
    plain, packed, worst, timed, encode, decode = 0, 0, 0.0, 0, 0.0, 0.0
    for array in arrays:
        room = memoryview(bytearray(codecs.most_bytes(codec, array.dtype.name, array.shape)))
        out = np.empty_like(array)
        used, data = codecs.encode(codec, array, room)
        plain += array.nbytes
        packed += len(data)
        worst = max(worst, len(data) / array.nbytes)
        if used != "raw" or codec == "raw":
            timed += array.nbytes
            encode += _least(partial(codecs.encode, codec, array, room), repeats)
            decode += _least(partial(codecs.decode_into, used, data, out), repeats)
    ordered = sorted(errors.values()) or [math.nan]
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
        error_median=0.0 if codecs.is_lossless(codec) else statistics.median(ordered),
        error_worst=0.0 if codecs.is_lossless(codec) else ordered[-1],
    )


def _defer(model: str, arrays: Sequence[Array]) -> list[Row]:
    """What DEFER would send of these tensors; nothing without its packages."""
    try:
        import lz4.frame
        import zfpy
    except ImportError:
        return []
    plain, packed, worst, encode, decode = 0, 0, 0.0, 0.0, 0.0
    for array in arrays:
        started = time.thread_time()
        data = lz4.frame.compress(zfpy.compress_numpy(array))
        packed_at = time.thread_time()
        found = zfpy.decompress_numpy(lz4.frame.decompress(data))
        decode += time.thread_time() - packed_at
        encode += packed_at - started
        if found.tobytes() != array.tobytes():
            raise SliceMQError(f"{model}: ZFP without loss gave other values")
        plain += array.nbytes
        packed += len(data)
        worst = max(worst, len(data) / array.nbytes)
    return [
        Row(model, DEFER, len(arrays), plain, packed / plain, worst, encode / plain, decode / plain, 0, 0.0, 0.0)
    ]


def _least(run: Callable[[], object], repeats: int) -> float:
    least = float("inf")
    for _ in range(repeats):
        started = time.thread_time()
        run()
        least = min(least, time.thread_time() - started)
    return least


def table(rows: Sequence[Row]) -> str:
    """The rows, and what they say of each codec's time."""
    lines = [
        machine(),
        "",
        "| model | codec | bytes, worst | encode ms/MB | decode ms/MB | error, worst |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        lossless = one.codec == DEFER or codecs.is_lossless(one.codec)
        error = "none" if lossless else f"{one.error_median:.1e}, {one.error_worst:.1e}" if one.places else "-"
        lines.append(
            f"| {one.model} | {one.codec} | {100 * one.remains:.0f} %, {100 * one.worst:.0f} % "
            f"| {_per_mb(one.encode)} | {_per_mb(one.decode)} | {error} |"
        )
    lines += ["", "Seconds for a byte beyond those of raw, on the model where they are most:", ""]
    raw = {one.model: one for one in rows if one.codec == "raw"}
    for codec in dict.fromkeys(one.codec for one in rows if one.codec not in ("raw", DEFER)):
        mine = [(one, raw[one.model]) for one in rows if one.codec == codec]
        encode = max(one.encode - plain.encode for one, plain in mine)
        decode = max(one.decode - plain.decode for one, plain in mine)
        lines.append(f"- {codec}: encode {encode * 1e9:.2f}e-9, decode {decode * 1e9:.2f}e-9")
    return "\n".join(lines)


def _per_mb(seconds: float) -> str:
    return f"{1e9 * seconds:.2f}" if seconds else "-"


if __name__ == "__main__":
    raise SystemExit(main())
