"""Bit-equality: the chain of slices against the whole model, over all real models, in both runtimes.

    python -m benchmarks.equality [--quick] [--models a,b] [--seeds N] [--runtimes x,y] [--jobs N] [--format json]
                                  [--fresh]

Each model is cut into 2 to 8 slices at random places, 30 times each (5 times for models over 50 MB); for every
third seed into slices that need not be runs of operators, so that parallel branches go to different slices. Each
chain runs a random frame, odd numbers (zeros of both signs, subnormal, infinite, NaN) for every third seed, and a
picture where the model takes pictures, and must give the bytes that the whole gives; a model that keeps state runs
50 frames in a row. Each runtime has a process of its own, one for each core at a time.

Finished rows are kept in .cache/equality/: the command can be stopped and resumed. Rows are taken from there when
the model, the runtime and all code behind them are the same; when only the code is not, each chain is cut again,
and runs again only if a slice has changed. A full run writes its table into docs/reference/models.md. The exit code
is 1 if anything differs or a model is missing.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.models import ROOT, RealModel, real_models, sha256

COUNTS = range(2, 9)
SEEDS, SEEDS_LARGE, SEEDS_QUICK = 30, 5, 3
RUNTIMES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}
CACHE = ROOT / ".cache" / "equality"
PAGE = ROOT / "docs" / "reference" / "models.md"
BEGIN, END = "<!-- equality: begin -->", "<!-- equality: end -->"
# What runs a chain: rows hold for the same slices only as long as it is the same.
_HARNESS = ("benchmarks/chains.py", "converters/verify.py", "converters/runtime.py", "edge_node/runtime.py")
_screen = threading.Lock()


@dataclass(frozen=True)
class Finding:
    """What is known of one model in one runtime: `facts` and `rows` as benchmarks.chains has them, as JSON objects.

    reason: why it cannot be cut or run; empty if it can.
    """

    model: RealModel
    runtime: str
    facts: dict[str, Any] | None
    rows: list[dict[str, Any]]
    reason: str = ""

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rows that are not equal."""
        return [row for row in self.rows if not row["equal"]]


def main() -> int:
    """Run what is not in the cache yet, print the table; returns the exit code."""
    arguments = _arguments()
    if arguments.child:
        _child(*arguments.child)
        return 0
    models = _chosen(arguments.models)
    missing = [model for model in models if not model.path.is_file()]
    for model in missing:
        sys.stderr.write(f"{model.name}: {model.path.name} is missing: {model.hint}\n")
    tasks = [(model, runtime) for model in models if model not in missing for runtime in arguments.runtimes]
    # The longest first, so that no core waits for the last one.
    order = sorted(tasks, key=lambda task: -task[0].path.stat().st_size)
    with ThreadPoolExecutor(max_workers=arguments.jobs) as pool:
        jobs = {
            (model.name, runtime): pool.submit(
                _run, model, runtime, _wanted(model, arguments.seeds, arguments.quick), arguments.fresh
            )
            for model, runtime in order
        }
        findings = [jobs[model.name, runtime].result() for model, runtime in tasks]
    summary = [_summary(finding) for finding in findings]
    if arguments.format == "json":
        rows = [row for finding in findings for row in finding.rows]
        print(json.dumps({"summary": summary, "rows": rows}, indent=2))
    else:
        print(_table(summary))
    for finding in findings:
        for row in finding.failed:
            sys.stderr.write(f"{row['model']} in {row['runtime']}, {row['slices']} slices, seed {row['seed']}: ")
            sys.stderr.write(f"{row['detail']}\n")
    full = not (arguments.quick or arguments.seeds or arguments.models) and set(arguments.runtimes) == set(RUNTIMES)
    if full and not missing:
        _write_page(_table(summary))
    return 1 if missing or any(finding.failed for finding in findings) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Bit-equality of sliced models with whole ones.")
    parser.add_argument("--quick", action="store_true", help=f"{SEEDS_QUICK} seeds a model")
    parser.add_argument("--models", help="comma-separated short names; default: all")
    parser.add_argument("--seeds", type=int, help="seeds for each number of slices")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES), help="comma-separated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--fresh", action="store_true", help="run again what the cache has")
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "RUNTIME", "CASES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.runtimes = arguments.runtimes.split(",")
    unknown = set(arguments.runtimes) - set(RUNTIMES)
    if unknown:
        parser.error(f"--runtimes: {sorted(unknown)[0]} is not one of {', '.join(RUNTIMES)}")
    for name in ("jobs", "seeds"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name}: {value}, expected 1 or more")
    return arguments


def _chosen(names: str | None) -> list[RealModel]:
    models = real_models()
    if names is None:
        return list(models.values())
    unknown = [name for name in names.split(",") if name not in models]
    if unknown:
        sys.exit(f"--models: {unknown[0]} is not one of {', '.join(models)}")
    return [models[name] for name in dict.fromkeys(names.split(","))]


def _wanted(model: RealModel, seeds: int | None, quick: bool) -> list[tuple[int, int]]:
    count = seeds or (SEEDS_QUICK if quick else SEEDS_LARGE if model.large else SEEDS)
    return [(slices, seed) for seed in range(count) for slices in COUNTS]


def _run(model: RealModel, runtime: str, wanted: list[tuple[int, int]], fresh: bool) -> Finding:
    """What the cache has of one model in one runtime, and what a child finds for the rest."""
    try:
        importlib.metadata.version(RUNTIMES[runtime])
    except importlib.metadata.PackageNotFoundError:
        return Finding(model, runtime, None, [], "not installed")
    file = _cache_file(model, runtime)
    if fresh:
        file.unlink(missing_ok=True)
    found = _read_cache(model, runtime, file)
    done = {(row["slices"], row["seed"]) for row in found.rows}
    todo = [case for case in wanted if case not in done]
    if todo and not found.reason:
        ended = _ask(model, runtime, todo, file)
        found = _read_cache(model, runtime, file)
        done = {(row["slices"], row["seed"]) for row in found.rows}
        absent = [case for case in wanted if case not in done]
        if absent and not found.reason:
            lost = {"model": model.name, "runtime": runtime, "slices": absent[0][0], "seed": absent[0][1]}
            lost |= {"kind": "none", "frames": 0, "equal": False, "detail": ended}
            return replace(found, rows=[*_asked(found.rows, wanted), lost])
    return replace(found, rows=_asked(found.rows, wanted))


def _asked(rows: list[dict[str, Any]], wanted: list[tuple[int, int]]) -> list[dict[str, Any]]:
    place = {case: number for number, case in enumerate(wanted)}
    chosen = [row for row in rows if (row["slices"], row["seed"]) in place]
    return sorted(chosen, key=lambda row: place[row["slices"], row["seed"]])


def _ask(model: RealModel, runtime: str, todo: list[tuple[int, int]], file: Path) -> str:
    """Run the cases in a child and keep its lines; returns how the child ended."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if file.is_file() and not file.read_bytes().endswith(b"\n"):
        file.write_bytes(file.read_bytes() + b"\n")  # a run was stopped while it wrote
    cases = ",".join(f"{slices}/{seed}" for slices, seed in todo)
    command = [sys.executable, "-m", "benchmarks.equality", "--child", model.name, runtime, cases]
    older = file.read_text() if file.is_file() else ""
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=complaints, text=True, cwd=ROOT) as process,
        file.open("a") as kept,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(older)
        process.stdin.close()
        for line in process.stdout:
            kept.write(line)
            kept.flush()
            _progress(model.name, runtime, line)
        code = process.wait()
        complaints.seek(0)
        said = complaints.read().strip()
    if not code:
        return "the code has changed while this ran: run it again"
    return f"the process ended with {code}" + (f": {said.splitlines()[-1]}" if said else "")


def _progress(model: str, runtime: str, line: str) -> None:
    if sys.stderr.isatty():
        body = json.loads(line)
        with _screen:
            case = f"{body.get('slices', '-')} slices, seed {body.get('seed', '-')}"
            sys.stderr.write(f"\r\x1b[K{model} in {runtime}: {case}")
            sys.stderr.flush()


def _cache_file(model: RealModel, runtime: str) -> Path:
    version = importlib.metadata.version(RUNTIMES[runtime])
    harness = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in _HARNESS)).hexdigest()[:8]
    return CACHE / f"{model.name}-{sha256(model.path)[:8]}-{runtime}-{version}-{harness}.jsonl"


@functools.cache
def code_digest() -> str:
    """A digest of all code that decides what a row says: benchmarks.chains and what it imports, in turn."""
    todo, seen = ["benchmarks.chains"], set()
    while todo:
        name = todo.pop()
        path = ROOT / (name.replace(".", "/") + ".py")
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update((ROOT / (name.replace(".", "/") + ".py")).read_bytes())
    return digest.hexdigest()[:16]


def _read_cache(model: RealModel, runtime: str, file: Path) -> Finding:
    """What is known for the code as it is now."""
    code = code_digest()
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    facts, reason = None, ""
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            body = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was stopped
        if body.pop("code") != code:
            continue
        if "unable" in body:
            reason = body["unable"]
        elif "facts" in body:
            facts = body["facts"]
        else:
            rows[body["slices"], body["seed"]] = body
    return Finding(model, runtime, facts, list(rows.values()), reason)


def _child(name: str, runtime: str, cases: str) -> None:
    """Run the cases of one model in one runtime, one JSON line each; older lines come on standard input."""
    from benchmarks.chains import Row, Subject
    from slicemq.errors import SliceMQError

    known: dict[str, Row] = {}
    for line in sys.stdin:
        try:
            body = json.loads(line)
        except ValueError:
            continue
        body.pop("code")
        if body.get("digest"):
            known[body["digest"]] = Row(**body)
    code = code_digest()
    model = real_models()[name]

    def say(body: dict[str, Any]) -> None:
        print(json.dumps({**body, "code": code}), flush=True)

    try:
        subject = Subject(model, runtime)
    except SliceMQError as error:
        say({"unable": _without_path(error, model)})
        return
    facts = subject.facts()
    say({"facts": asdict(replace(facts, note=_without_path(facts.note, model)))})
    for case in cases.split(","):
        slices, seed = (int(word) for word in case.split("/"))
        say(asdict(subject.row(slices, seed, known)))


def _without_path(text: object, model: RealModel) -> str:
    return str(text).replace(f"{model.path}: ", "").removeprefix("model: ")


def _summary(finding: Finding) -> dict[str, Any]:
    facts = finding.facts or {}
    chains = [row for row in finding.rows if row["kind"] != "none" or not row["equal"]]
    absent = sorted({row["slices"] for row in finding.rows} - {row["slices"] for row in chains})
    result = finding.reason
    if finding.failed:
        result = f"{len(finding.failed)} differ: {finding.failed[0]['detail']}"
    elif not result:
        result = "equal" if chains else f"cannot be cut: {facts.get('uncut') or 'no tensor that can travel'}"
        if absent and chains:
            result += f"; too few cuts for {absent[0]} slices" + (" and more" if absent[1:] else "")
        if facts.get("note"):
            result += f"; the whole is one slice with all operators, since {facts['note']}"
    return {
        "model": finding.model.name,
        "size_mb": round(finding.model.path.stat().st_size / 1e6, 1),
        "operators": facts.get("operators"),
        "cuts": facts.get("cuts"),
        "narrowest": facts.get("narrowest"),
        "runtime": finding.runtime,
        "chains": len(chains),
        "branches": sum(row["kind"] == "branches" for row in chains),
        "frames": sum(row["frames"] for row in chains),
        "differing": len(finding.failed),
        "result": result,
    }


_COLUMNS = {
    "model": "model",
    "MB": "size_mb",
    "operators": "operators",
    "cuts": "cuts",
    "narrowest, bytes": "narrowest",
    "runtime": "runtime",
    "chains": "chains",
    "of branches": "branches",
    "frames": "frames",
    "result": "result",
}


def _table(summary: list[dict[str, Any]]) -> str:
    lines = [" | ".join(_COLUMNS), " | ".join("---" for _ in _COLUMNS)]
    for row in summary:
        cells = ("-" if row[key] is None else str(row[key]).replace("|", "/") for key in _COLUMNS.values())
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _write_page(table: str) -> None:
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else f"{BEGIN}\n{END}\n"
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
