"""Profiles that are measured once and kept: a file for each model, sizes of inputs, runtime, machine and format.

A file that does not hold exactly what was asked for (damaged, of another machine, of other operators) counts as
none. Two processes may measure the same model at once; the last one's file stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from converters.graph import Graph
from converters.profile import PROFILE_FORMAT, SECONDS, Profile, from_plain, measure
from converters.runtime import Load
from converters.schema import Bytes
from coordinator.kept import file_of, keep, read

# What /proc/cpuinfo says of a processor that decides how fast it computes; names differ with the architecture.
_CPU_FIELDS = (
    "model name",
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "cache size",
    "flags",
    "Features",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "CPU revision",
    "Hardware",
    "Model",
)


def profile_of(
    data: Bytes,
    graph: Graph,
    load: Load,
    runtime: str,
    folder: Path,
    *,
    fresh: bool = False,
    budget: float = SECONDS,
) -> Profile:
    """The model's profile on this machine: the one kept in `folder`, else measured and kept there.

    runtime: name and version of what `load` opens. fresh: measure anew. budget: see `measure`.
    Raises what `measure` raises; a folder that cannot be written only costs the next one the same time again.
    """
    key = {
        "format": PROFILE_FORMAT,
        "model": graph.sha256,
        "inputs": [list(graph.tensors[t].shape) for t in graph.inputs],
        "runtime": runtime,
        "machine": machine(),
    }
    kept = file_of(folder, graph.sha256, key)
    found = None if fresh else read(kept, key, "profile", from_plain)
    if found is not None and set(found.seconds) == set(graph.steps):
        return found
    profile = measure(data, graph, load, runtime=runtime, budget=budget)
    keep(kept, {"key": key, "profile": asdict(profile)})
    return profile


@lru_cache(maxsize=4)
def machine(root: Path = Path("/")) -> str:
    """What computes here, so that another machine does not take the profiles: architecture, CPU, digest."""
    found: dict[str, str] = {}
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name in _CPU_FIELDS:
            found.setdefault(name, value)
    with contextlib.suppress(OSError):
        path = root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
        found["max frequency"] = path.read_text(encoding="ascii", errors="replace").strip()
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    name = found.get("model name") or found.get("Model") or found.get("Hardware") or "unknown CPU"
    return f"{platform.machine()}, {name}, {digest[:12]}"
