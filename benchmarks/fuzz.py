"""Damaged models: each ends in success or in a clear ModelError, within 2 GB and 20 s.

    python -m benchmarks.fuzz [--inputs 10000] [--seed 1] [--models a,b] [--runtimes x,y] [--fresh] [--format json]
    python -m benchmarks.fuzz --show 123 [--seed 1] -o FILE

Input number i is a function of seed and i: a small real model or a tiny one with every feature, damaged once or
more (`benchmarks.mutations`), sent the ways that a user's file takes (`benchmarks.fuzz_paths`), in one runtime and
the other by turns. Reading and cutting may do nothing but succeed or raise ModelError. Where a runtime runs, its
process may die, because it is one of its own: that is counted, and every model verb of the command line must turn
such a death into exit code 10, which is tried on a sample. Finished inputs are kept in .cache/fuzz/ while the code
is the same, so the command can be stopped and resumed. The exit code is 1 if anything failed; its file is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.fuzz_paths import WAYS, Ending, run, warm_up
from benchmarks.models import ROOT, real_models
from benchmarks.mutations import Original, damaged, original

RUNTIMES = ("ai_edge_litert", "tflite_runtime")
CACHE = ROOT / ".cache" / "fuzz"
_LARGEST = 3_000_000
_SHOWN = 30
# One input in so many goes through the command line, and the first so many that kill their runtime.
_COMMAND_LINE_EVERY, _COMMAND_LINE_DEATHS = 250, 20
_COMMAND_LINE_CODES = {0, 10, 11, 12}
_PARTS = ("converters", "edge_node/modelcheck.py", "edge_node/runtime.py", "benchmarks/mutations.py")


@dataclass(frozen=True)
class Tried:
    """One input: what it was, and how each way ended (kind, detail); `failed` says what must not be."""

    number: int
    model: str
    damage: str
    runtime: str
    endings: dict[str, tuple[str, str]]
    seconds: float
    peak: int
    failed: str = ""


def main() -> int:
    """Fuzz and print the table; returns the exit code."""
    arguments = _arguments()
    if arguments.child:
        _child(arguments.seed, arguments.models, *arguments.child)
        return 0
    if arguments.show is not None:
        data, model, damage = make_input(arguments.seed, arguments.show, arguments.models)
        arguments.output.write_bytes(data)
        print(f"{arguments.output}: {model}, {damage}, {len(data)} bytes")
        return 0
    begun = time.monotonic()
    tried = sorted(_all(arguments), key=lambda one: one.number)
    summary = summarize(tried)
    failures = [asdict(one) for one in tried if one.failed]
    if arguments.format == "json":
        print(json.dumps({"summary": summary, "failures": failures}, indent=2))
    else:
        print(table(summary))
        print(f"\n{len(tried)} inputs, seed {arguments.seed}; {time.monotonic() - begun:.0f} s this time")
        for one in failures[:_SHOWN]:
            print(f"FAILED input {one['number']} ({one['model']}, {one['damage']}): {one['failed']}")
    for one in failures[:_SHOWN]:
        print(f"kept: {keep(arguments.seed, one['number'], arguments.models)}", file=sys.stderr)
    return 1 if failures or len(tried) < arguments.inputs else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Damaged models end in success or in a clear ModelError.")
    parser.add_argument("--inputs", type=int, default=10_000, help="how many damaged files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", default="", help="comma-separated names; default: all small ones")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES), help="comma-separated")
    parser.add_argument("--jobs", type=int, default=1, help="2 for both runtimes at once")
    parser.add_argument("--fresh", action="store_true", help="do again what the cache has")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--show", type=int, metavar="NUMBER", help="write one input to -o and stop")
    parser.add_argument("-o", "--output", type=Path, default=Path("damaged.tflite"))
    parser.add_argument("--child", nargs=2, metavar=("RUNTIME", "NUMBERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.runtimes = [name for name in arguments.runtimes.split(",") if importlib.util.find_spec(name)]
    if not arguments.runtimes:
        parser.error("--runtimes: none of them is installed")
    unknown = set(filter(None, arguments.models.split(","))) - set(_sources())
    if unknown:
        parser.error(f"--models: {sorted(unknown)[0]} is not one of {', '.join(_sources())}")
    return arguments


@lru_cache
def _sources() -> dict[str, Original]:
    """The sound models by name: tiny ones, and real ones of at most 3 MB."""
    from tests.converters.corpus import tiny_models

    found = {f"tiny-{name}": original(f"tiny-{name}", data) for name, data in tiny_models().items()}
    for name, model in real_models().items():
        if model.packaged and model.path.is_file() and model.path.stat().st_size <= _LARGEST:
            found[name] = original(name, model.path.read_bytes())
    return found


def make_input(seed: int, number: int, models: str = "") -> tuple[bytes, str, str]:
    """Damaged file `number` of `seed`, the model that it comes from, and what was done to it."""
    sources = _sources()
    names = [name for name in models.split(",") if name] or list(sources)
    rng = random.Random(f"{seed}/{number}")
    name, other = rng.choice(names), rng.choice(list(sources))
    data, damage = damaged(sources[name], sources[other], rng)
    return data, name, damage


def keep(seed: int, number: int, models: str = "") -> Path:
    """Write an input to a file for whoever looks into its failure."""
    data, model, _ = make_input(seed, number, models)
    path = CACHE / "failed" / f"{seed}-{number}-{model}.tflite"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _all(arguments: argparse.Namespace) -> Iterator[Tried]:
    """Every input, from the cache as far as it has them."""
    key = f"{arguments.seed}-{_digest(arguments.models)}-{_code()}"
    CACHE.mkdir(parents=True, exist_ok=True)

    def share(turn: int) -> list[Tried]:
        runtime = arguments.runtimes[turn]
        numbers = range(turn, arguments.inputs, len(arguments.runtimes))
        file = CACHE / f"{key}-{runtime}.jsonl"
        if arguments.fresh:
            file.unlink(missing_ok=True)
        done = _read(file)
        todo = [number for number in numbers if number not in done]
        if todo:
            done |= _run_child(arguments, runtime, todo, file)
        return [done[number] for number in numbers if number in done]

    with ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        for found in pool.map(share, range(len(arguments.runtimes))):
            yield from found


def _run_child(arguments: argparse.Namespace, runtime: str, todo: list[int], file: Path) -> dict[int, Tried]:
    """Try inputs in a process that has `runtime` loaded, and keep what it says."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--seed", str(arguments.seed)]
    command += ["--models", arguments.models, "--child", runtime, "-"]
    if file.is_file() and not file.read_bytes().endswith(b"\n"):
        file.write_bytes(file.read_bytes() + b"\n")  # a run was stopped while it wrote
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process,
        file.open("a") as kept,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(",".join(map(str, todo)))
        process.stdin.close()
        for count, line in enumerate(process.stdout, 1):
            kept.write(line)
            kept.flush()
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\x1b[K{runtime}: {count} of {len(todo)}")
    return _read(file)


def _read(file: Path) -> dict[int, Tried]:
    done = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            body = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was stopped
        body["endings"] = {way: (kind, detail) for way, (kind, detail) in body["endings"].items()}
        done[body["number"]] = Tried(**body)
    return done


def _code() -> str:
    digest = hashlib.sha256()
    for part in _PARTS:
        folder = ROOT / part
        for path in sorted(folder.glob("*.py")) if folder.is_dir() else [folder]:
            digest.update(path.read_bytes())
    for name in _sources():
        digest.update(_sources()[name].data)
    return digest.hexdigest()[:8]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:4]


def _child(seed: int, models: str, runtime: str, listed: str) -> None:
    """Try inputs in a process that has loaded `runtime`, whose forks start at once; one JSON line each."""
    numbers = [int(word) for word in (sys.stdin.read() if listed == "-" else listed).split(",")]
    for one in try_inputs(seed, numbers, runtime, models):
        print(json.dumps(asdict(one)), flush=True)


def try_inputs(seed: int, numbers: Iterable[int], runtime: str, models: str = "") -> Iterator[Tried]:
    """Send inputs all ways; `runtime` is loaded into this process, which forks for each."""
    deaths = 0
    with tempfile.TemporaryDirectory(prefix="slicemq-fuzz-") as folder:
        path = Path(folder) / "damaged.tflite"
        path.write_bytes(_sources()["tiny-chain"].data)
        warm_up(path, runtime)
        for number in numbers:
            data, model, damage = make_input(seed, number, models)
            path.write_bytes(data)
            endings = {way: run(way, path, runtime, number) for way in WAYS}
            command_line = number % _COMMAND_LINE_EVERY == 0
            if endings["plan"].kind in ("died", "slow", "memory") and deaths < _COMMAND_LINE_DEATHS:
                deaths += 1
                command_line = endings["plan"].kind == "died" or command_line
            said = inspect(path, runtime) if command_line else ""
            yield Tried(
                number,
                model,
                damage,
                runtime,
                {way: (ending.kind, ending.detail) for way, ending in endings.items()},
                round(sum(ending.seconds for ending in endings.values()), 3),
                max(ending.peak for ending in endings.values()),
                judge(endings, said),
            )


def judge(endings: dict[str, Ending], said: str) -> str:
    """What must not be, empty if all is well: without a runtime nothing but success and ModelError may be."""
    wrong = []
    for way, ending in endings.items():
        allowed = ("ok", "refused") if way == "cut" else ("ok", "refused", "died", "slow")
        if ending.kind not in allowed:
            wrong.append(f"{way}: {ending.kind} {ending.detail}")
    return "; ".join([*wrong, *([said] if said else [])])


def inspect(path: Path, runtime: str) -> str:
    """Send a file to `slicemq model inspect`; what it did wrong, empty if all is well."""
    command = [sys.executable, "-m", "coordinator.cli", "model", "inspect", str(path), "--runtime", runtime]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=120, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return "model inspect: not done after 120 s"
    if done.returncode not in _COMMAND_LINE_CODES or "Traceback" in done.stderr:
        return f"model inspect: exit code {done.returncode}: {done.stderr[-300:]}"
    if done.returncode and str(path) not in done.stderr:
        return f"model inspect: does not name the file: {done.stderr[-300:]}"
    return ""


def summarize(tried: Sequence[Tried]) -> list[dict[str, Any]]:
    """A row for each model and one for all: how often each way ended how."""
    rows = []
    for model in [*sorted({one.model for one in tried}), "all"]:
        own = [one for one in tried if model in (one.model, "all")]
        counts = Counter((way, kind) for one in own for way, (kind, _) in one.endings.items())
        row: dict[str, Any] = {"model": model, "inputs": len(own)}
        for way in WAYS:
            kinds = ("ok", "refused") if way == "cut" else ("ok", "refused", "died", "slow")
            row |= {f"{way} {kind}": counts[way, kind] for kind in kinds}
        row["peak MB"] = round(max((one.peak for one in own), default=0) / 1e6)
        row["failed"] = sum(bool(one.failed) for one in own)
        rows.append(row)
    return rows


def table(summary: Sequence[dict[str, Any]]) -> str:
    """The summary as a Markdown table."""
    columns = list(summary[0])
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(row[column]) for column in columns) for row in summary]
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
