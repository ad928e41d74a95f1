"""What a report was measured on: processor, memory, kernel, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from emulator.brokers import mosquitto_binary
from slicemq.version import __version__

_PACKAGES = ("ai-edge-litert", "tflite-runtime", "paho-mqtt", "amqtt", "numpy")


def machine() -> dict[str, Any]:
    """`processor`, `processors`, `memory_bytes` and `kernel` of this machine."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def versions(broker: str) -> dict[str, str]:
    """Versions of SliceMQ, Python, the installed packages that matter, and of mosquitto where it is used."""
    found = {"slicemq": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if broker == "mosquitto":
        done = subprocess.run([mosquitto_binary(), "-h"], capture_output=True, text=True, check=False)
        first = done.stdout.splitlines()[0] if done.stdout else ""
        found["mosquitto"] = first.replace("mosquitto", "").replace("version", "").strip()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()
