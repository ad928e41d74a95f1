"""What this board can give: cores, memory, runtime, operators, speed per operator class, link. No numpy here.

Speeds, operators and the link are measured by child processes (`edge_node.measure`), so that the agent stays small;
all but the link are kept on disk for as long as runtime, CPU, cores and calibration models stay the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_node.cgroups import Limits, read_limits
from slicemq.errors import RuntimeUnavailableError, SliceMQError
from slicemq.messages import Link, RuntimeInfo, from_plain, operators_are_sound
from slicemq.options import BrokerOptions

logger = logging.getLogger("slicemq.node.capacity")

# Each has a calibration model; a runtime that lacks an operator of one goes without that class.
CLASSES = (
    *("conv", "conv-int8", "conv-hybrid", "conv-dynamic"),
    *("depthwise", "depthwise-int8", "depthwise-hybrid", "depthwise-dynamic"),
    *("dense", "dense-int8", "dense-hybrid", "dense-dynamic"),
    *("elementwise", "elementwise-int8", "elementwise-dynamic"),
    *("function", "function-dynamic", "moving"),
)
_NEEDED = frozenset(name for name in CLASSES if "-" not in name)
# Changes with the way speeds are measured, so that kept ones of another way do not count.
_MEASUREMENT = "3"
# Seconds lost of each burst, the most of it that is lost, and the agent's share of a core.
_RESTART = 0.0003
_RESTART_MOST = 0.1
_AGENT = 0.005
CALIBRATION = Path(__file__).with_name("calibration")
# The agent's own growth while it works: heartbeats, downloads, documents.
AGENT_MARGIN = 12_000_000
_MEASURE_SECONDS = 120.0


@dataclass(frozen=True)
class Board:
    """What the system says. `memory` is bytes that slices and their workers may take, agent taken off.

    `burst`: seconds of computing until a quota stops the process for the rest of its period (None: none does).
    """

    arch: str
    cpu: str
    cores: float
    threads: int
    memory: int
    burst: float | None = None


@dataclass(frozen=True)
class Measured:
    """What the children measured.

    `worker_memory` is an idle worker's resident memory in bytes; `operators` the highest version of each operator
    that the runtime takes, empty when it could not be asked.
    """

    runtime: RuntimeInfo
    speeds: dict[str, float]
    worker_memory: int
    codecs: tuple[str, ...]
    operators: dict[str, int] = field(default_factory=dict)


def read_board(
    *, root: Path = Path("/"), threads: int | None = None, memory_limit: int | None = None, reserve: int = 0
) -> Board:
    """Cores, threads and memory from the system below `root`; `reserve` bytes stay free for others.

    `memory_limit` caps what the system offers. Raises nothing: what cannot be read does not limit.
    """
    limits = read_limits(root)
    cores = _cores(limits)
    offers = [offer for offer in (_available(root), limits.memory) if offer is not None]
    memory = max(0, min(offers, default=0) - AGENT_MARGIN - reserve)
    if memory_limit is not None:
        memory = min(memory, memory_limit)
    return Board(
        arch=platform.machine(),
        cpu=_cpu_model(root),
        cores=cores,
        threads=threads if threads is not None else max(1, int(cores)),
        memory=memory,
        burst=limits.burst,
    )


def slice_memory(board: Board, measured: Measured) -> int:
    """Bytes for slices: one idle worker is taken off too."""
    return max(0, board.memory - measured.worker_memory)


def measure_speeds(board: Board, runtime: str, cache: Path) -> Measured:
    """Speeds and operators: from `cache` when nothing has changed, else measured and stored there.

    Raises RuntimeUnavailableError without a usable runtime.
    """
    key = _key(board, runtime)
    found = _from_cache(cache, key)
    if found is not None:
        return found
    task = {"task": "speeds", "runtime": runtime, "threads": board.threads, "cores": usable(board)}
    body = _child(task)
    measured = _measured(body)
    operators = _operators(measured.runtime.name)
    if operators is None:
        return measured
    body["operators"] = operators
    measured = _measured(body)
    text = json.dumps({"key": key, **body})
    try:
        part = cache.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(cache)
    except OSError as error:
        logger.warning("%s: the measured speeds cannot be kept: %s", cache, error)
    return measured


def _operators(runtime: str) -> Any:
    """What the runtime takes; in a process of its own, because a runtime may crash on models without sense."""
    try:
        return _child({"task": "operators", "runtime": runtime})["operators"]
    except SliceMQError as error:
        logger.warning("%s: every operator is assumed to be there", error)
        return None


def measure_link(broker: BrokerOptions, client_id: str, topic: str) -> Link:
    """Rates and round trip to the broker; raises the SliceMQError that the child names (BrokerError ...)."""
    body = _child({"task": "link", "broker": broker.to_dict(), "client_id": client_id, "topic": topic})
    return from_plain(Link, body, "link measurement")


def _child(task: dict[str, Any]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge_node.measure"],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=_MEASURE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SliceMQError(f"measuring {task['task']} did not end within {_MEASURE_SECONDS:g} s") from error
    lines = done.stdout.strip().splitlines()
    try:
        body = json.loads(lines[-1]) if lines else {}
    except ValueError:
        body = {}
    if not isinstance(body, dict) or not body or "error" in body:
        text = body.get("error") if body else f"ended with code {done.returncode}: {done.stderr.strip()[-500:]}"
        kind = RuntimeUnavailableError if task["task"] == "speeds" else SliceMQError
        raise kind(f"measuring {task['task']}: {text}")
    return body


def _measured(body: dict[str, Any]) -> Measured:
    measured = from_plain(Measured, body, "measured speeds")
    known = _NEEDED <= set(measured.speeds) <= set(CLASSES)
    if not known or not all(0 < speed < math.inf for speed in measured.speeds.values()):
        raise SliceMQError(f"measured speeds: expected a positive number for each of {', '.join(CLASSES)}")
    if not operators_are_sound(measured.operators):
        raise SliceMQError("measured operators: expected names with versions from 1")
    return measured


def _from_cache(cache: Path, key: str) -> Measured | None:
    try:
        body = json.loads(cache.read_text(encoding="utf-8"))
        kept = isinstance(body, dict) and body.get("key") == key and "operators" in body
        return _measured(body) if kept else None
    except (OSError, ValueError, SliceMQError):
        return None


def _key(board: Board, runtime: str) -> str:
    """What the speeds depend on; the installed runtimes are named by their packages' metadata folders."""
    digest = hashlib.sha256()
    for name in CLASSES:
        digest.update((CALIBRATION / f"{name}.tflite").read_bytes())
    parts = [
        _MEASUREMENT,
        runtime,
        *_installed(),
        board.cpu,
        f"{usable(board):.3f}",
        str(board.threads),
        digest.hexdigest(),
    ]
    return "|".join(parts)


def _installed() -> list[str]:
    """Names of the runtimes' and codecs' metadata folders, which hold their versions (importing costs memory)."""
    found: set[str] = set()
    for entry in sys.path:
        for pattern in ("ai_edge_litert-*", "tflite_runtime-*", "lz4-*", "zstandard-*", "zfpy-*"):
            found.update(folder.name for folder in Path(entry or ".").glob(f"{pattern}.dist-info"))
    return sorted(found)


def usable(board: Board) -> float:
    """What slices get of the cores. Of less than one, two things take a part.

    Each burst of a quota begins with caches that others have used, and the agent takes its own. Both are constants,
    chosen on nodes limited to 0.05 to 0.3 of a core: whole models lose more in shorter bursts, down to some 2 ms,
    and not much more below. `python -m benchmarks.plan_reality` and `benchmarks.many_nodes` show how true
    plans are.
    """
    if board.cores >= 1.0 or board.burst is None:
        return board.cores
    lost = min(_RESTART_MOST, _RESTART / board.burst)
    return max(0.1 * board.cores, board.cores * (1.0 - lost) - _AGENT)


def _cores(limits: Limits) -> float:
    """Cores that this process may use at once: its affinity, and the quota of its control groups."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    return round(min(count, limits.cores) if limits.cores is not None else count, 3)


def _available(root: Path) -> int | None:
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[:1] == ["MemAvailable:"] and len(words) == 3 and words[1].isdigit():
                return int(words[1]) * 1024
    except OSError:
        pass
    return None


def _cpu_model(root: Path) -> str:
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    for name in ("model name", "Model", "Hardware", "CPU part"):
        if fields.get(name):
            return fields[name]
    return platform.machine()
