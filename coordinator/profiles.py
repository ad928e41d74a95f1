"""Profiles that are measured once and kept: a file for each model, sizes of inputs, runtime, machine and format.

A file that does not hold exactly what was asked for (damaged, of another machine, of other operators) counts as
none. Two processes may measure the same model at once; the last one's file stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import tempfile
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from converters.graph import Graph
from converters.profile import PROFILE_FORMAT, SECONDS, Profile, from_plain, measure
from converters.runtime import Load
from converters.schema import Bytes

logger = logging.getLogger("slicemq.coordinator.profiles")

# A profile takes some 30 bytes an operator, and a file of 2 GB has no more than some million.
_MAX_FILE_BYTES = 64_000_000
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
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    kept = folder / f"{graph.sha256}-{digest[:16]}.json"
    found = None if fresh else _kept(kept, key, graph)
    if found is not None:
        return found
    profile = measure(data, graph, load, runtime=runtime, budget=budget)
    _keep(kept, {"key": key, "profile": asdict(profile)})
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


def _kept(path: Path, key: dict[str, Any], graph: Graph) -> Profile | None:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            return None
        body = json.loads(content)
        if body["key"] != key:
            return None
        profile = from_plain(body["profile"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("%s: not used: %s", path, error)
        return None
    return profile if set(profile.seconds) == set(graph.steps) else None


def _keep(path: Path, body: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".profile-")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(body, file)
            os.replace(name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        logger.warning("%s: not kept: %s", path, error.strerror)
