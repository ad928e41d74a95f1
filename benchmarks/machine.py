"""What a table was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path


def describe_machine() -> str:
    """Processor, cores, Python and the versions that matter, in one line."""
    versions = []
    for name in ("ai-edge-litert", "tflite-runtime", "paho-mqtt", "amqtt"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if broker := _mosquitto():
        versions.append(broker)
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(versions)}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def _mosquitto() -> str:
    found = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        return ""
    done = subprocess.run([found, "-h"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].replace("version ", "") if done.stdout else ""
