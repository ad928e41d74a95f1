"""Bit-equality: the chain of slices against the whole model, over all real models, in both runtimes.

    python -m benchmarks.equality [--quick] [--models a,b] [--seeds N] [--runtimes x,y] [--format json] [--fresh]

Each model is cut into 2, 3, 5 and 8 slices at random places, 20 times each (5 times for models over 50 MB), and
runs a random frame, and a real picture where it takes pictures, through the whole and through the chain. Each
runtime has a process of its own. Finished rows are kept in .cache/equality/ and are not run again while the model,
the runtime's version and the converters' code are the same; so the command can be stopped and resumed. A full run
writes its table into docs/reference/models.md. The exit code is 1 if anything differs or a model is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.models import ROOT, RealModel, pictures, real_models, sha256

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.runtime import Array

COUNTS = (2, 3, 5, 8)
SEEDS, SEEDS_LARGE, SEEDS_QUICK = 20, 5, 2
RUNTIMES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}
CACHE = ROOT / ".cache" / "equality"
PAGE = ROOT / "docs" / "reference" / "models.md"
BEGIN, END = "<!-- equality: begin -->", "<!-- equality: end -->"
# What decides how a slice looks; a change there makes old rows worthless.
_SOURCES = (
    "costs",
    "dynamic",
    "flatbuffer",
    "folding",
    "graph",
    "runtime",
    "schema",
    "shapes",
    "slicing",
    "verify",
)


@dataclass(frozen=True)
class Row:
    """One cut of one model in one runtime; `detail` names the first difference, or why it could not run."""

    model: str
    runtime: str
    slices: int
    seed: int
    frames: int
    equal: bool
    detail: str = ""


def main() -> int:
    """Run what is not in the cache yet, print the table; returns the exit code."""
    arguments = _arguments()
    if arguments.child:
        _child(*arguments.child)
        return 0
    models = _chosen(arguments.models)
    rows: list[Row] = []
    whole: dict[tuple[str, str], str] = {}
    for model in models:
        if not model.path.is_file():
            sys.stderr.write(f"{model.name}: {model.path.name} is missing: {model.hint}\n")
            rows.append(Row(model.name, "", 0, 0, 0, False, "missing"))
            continue
        for runtime in arguments.runtimes:
            wanted = _wanted(model, arguments.seeds, arguments.quick)
            found, reason = _run(model, runtime, wanted, arguments.fresh)
            rows += found
            whole[model.name, runtime] = reason
    summary = [_summary(model, runtime, rows, reason) for (model, runtime), reason in whole.items()]
    if arguments.format == "json":
        print(json.dumps({"summary": summary, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(_table(summary))
    full = not (arguments.quick or arguments.seeds or arguments.models) and set(arguments.runtimes) == set(RUNTIMES)
    if full and all(row.runtime for row in rows):
        _write_page(_table(summary))
    return 0 if all(row.equal for row in rows) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Bit-equality of sliced models with whole ones.")
    parser.add_argument("--quick", action="store_true", help=f"{SEEDS_QUICK} seeds a model")
    parser.add_argument("--models", help="comma-separated short names; default: all")
    parser.add_argument("--seeds", type=int, help="seeds for each number of slices")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES), help="comma-separated")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--fresh", action="store_true", help="run again what the cache has")
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "RUNTIME", "CASES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.runtimes = arguments.runtimes.split(",")
    unknown = set(arguments.runtimes) - set(RUNTIMES)
    if unknown:
        parser.error(f"--runtimes: {sorted(unknown)[0]} is not one of {', '.join(RUNTIMES)}")
    return arguments


def _chosen(names: str | None) -> list[RealModel]:
    models = real_models()
    if names is None:
        return list(models.values())
    unknown = [name for name in names.split(",") if name not in models]
    if unknown:
        sys.exit(f"--models: {unknown[0]} is not one of {', '.join(models)}")
    return [models[name] for name in names.split(",")]


def _wanted(model: RealModel, seeds: int | None, quick: bool) -> list[tuple[int, int]]:
    count = seeds or (SEEDS_QUICK if quick else SEEDS_LARGE if model.large else SEEDS)
    return [(slices, seed) for slices in COUNTS for seed in range(count)]


def _run(model: RealModel, runtime: str, wanted: list[tuple[int, int]], fresh: bool) -> tuple[list[Row], str]:
    """The rows of one model in one runtime, from the cache as far as it has them, and why there are none."""
    try:
        version = importlib.metadata.version(RUNTIMES[runtime])
    except importlib.metadata.PackageNotFoundError:
        return [], "not installed"
    file = CACHE / f"{model.name}-{sha256(model.path)[:8]}-{runtime}-{version}-{_code()}.jsonl"
    if fresh:
        file.unlink(missing_ok=True)
    done, reason = _read_cache(file)
    todo = [case for case in wanted if case not in done]
    if reason or not todo:
        return [done[case] for case in wanted if case in done], reason
    CACHE.mkdir(parents=True, exist_ok=True)
    if file.is_file() and not file.read_bytes().endswith(b"\n"):
        file.write_bytes(file.read_bytes() + b"\n")  # a run was stopped while it wrote
    cases = ",".join(f"{slices}/{seed}" for slices, seed in todo)
    command = [sys.executable, "-m", "benchmarks.equality", "--child", model.name, runtime, cases]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process, file.open("a") as kept:
        assert process.stdout is not None
        for line in process.stdout:
            kept.write(line)
            kept.flush()
            _progress(model.name, runtime, line)
    done, reason = _read_cache(file)
    rows = [done[case] for case in wanted if case in done]
    if process.returncode and not reason:
        absent = next(case for case in wanted if case not in done)
        detail = f"the process ended with {process.returncode}"
        rows.append(Row(model.name, runtime, absent[0], absent[1], 0, False, detail))
    return rows, reason


def _progress(model: str, runtime: str, line: str) -> None:
    if sys.stderr.isatty():
        body = json.loads(line)
        sys.stderr.write(
            f"\r\x1b[K{model} in {runtime}: {body.get('slices', '-')} slices, seed {body.get('seed', '-')}"
        )
        sys.stderr.flush()


def _code() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in _SOURCES:
        digest.update((ROOT / "converters" / f"{name}.py").read_bytes())
    return digest.hexdigest()[:8]


def _read_cache(file: Path) -> tuple[dict[tuple[int, int], Row], str]:
    done: dict[tuple[int, int], Row] = {}
    reason = ""
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            body = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was stopped
        if "unable" in body:
            reason = body["unable"]
        else:
            row = Row(**body)
            done[row.slices, row.seed] = row
    return done, reason


def _child(name: str, runtime: str, cases: str) -> None:
    """Run the cases of one model in one runtime; one JSON line each."""
    from functools import partial

    from converters.graph import read_graph
    from converters.schema import open_model
    from converters.shapes import resolve_shapes
    from converters.slicing import groups_at, legal_positions, slice_model
    from converters.verify import link, verify_chain
    from edge_node.runtime import open_interpreter
    from slicemq.errors import SliceMQError

    load = partial(open_interpreter, runtime=runtime)
    path = real_models()[name].path
    data = open_model(path)
    try:
        graph = resolve_shapes(data, read_graph(data), load)
    except SliceMQError as error:
        print(json.dumps({"unable": str(error).replace(f"{path}: ", "").removeprefix("model: ")}), flush=True)
        return
    legal = legal_positions(graph)
    for case in cases.split(","):
        slices, seed = (int(word) for word in case.split("/"))
        positions = sorted(random.Random(f"{slices}/{seed}").sample(legal, slices - 1))
        chain = [link(piece) for piece in slice_model(data, graph, groups_at(graph, positions))]
        report = verify_chain(data, graph, chain, load, _frames(graph, seed), path=path)
        detail = str(report.differences[0]) + f" (cut at {positions})" if report.differences else ""
        row = Row(name, runtime, slices, seed, report.frames, report.equal, detail)
        print(json.dumps(asdict(row)), flush=True)


def _frames(graph: Graph, seed: int) -> Iterator[tuple[str, Mapping[int, Array]]]:
    """A random frame, and a picture for models whose one input is [1, height, width, 3]."""
    from converters.runtime import random_inputs

    yield f"random {seed}", random_inputs(graph, seed)
    files = pictures()
    shape = graph.tensors[graph.inputs[0]].shape
    if len(graph.inputs) == 1 and len(shape) == 4 and shape[0] == 1 and shape[3] == 3 and files:
        import numpy as np
        from PIL import Image

        path = files[seed % len(files)]
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((shape[2], shape[1])), np.int16)
        dtype = graph.tensors[graph.inputs[0]].dtype
        array = (pixels - 128).astype(np.int8) if dtype == "int8" else (pixels / 127.5 - 1.0).astype(dtype)
        yield path.name, {graph.inputs[0]: array[None]}


def _summary(model: str, runtime: str, rows: list[Row], reason: str) -> dict[str, Any]:
    from converters.graph import read_graph
    from converters.schema import open_model

    path = real_models()[model].path
    graph = read_graph(open_model(path))
    own = [row for row in rows if (row.model, row.runtime) == (model, runtime)]
    differing = [row for row in own if not row.equal]
    return {
        "model": model,
        "size_mb": round(graph.size / 1e6, 1),
        "operators": len(graph.operators),
        "runtime": runtime,
        "chains": len(own),
        "frames": sum(row.frames for row in own),
        "differing": len(differing),
        "result": reason or (differing[0].detail if differing else "equal"),
    }


def _table(summary: list[dict[str, Any]]) -> str:
    columns = ("model", "MB", "operators", "runtime", "chains", "frames", "result")
    keys = ("model", "size_mb", "operators", "runtime", "chains", "frames", "result")
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(row[key]).replace("|", "/") for key in keys) for row in summary]
    return "\n".join(f"| {line} |" for line in lines)


def _write_page(table: str) -> None:
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else f"{BEGIN}\n{END}\n"
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
