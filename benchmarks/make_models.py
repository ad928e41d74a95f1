"""Convert ResNet50 and MobileNetV2 once into .cache/models/ (float32 and full int8), for tests and benchmarks.

    python -m benchmarks.make_models [--force]

Runs with the project's own interpreter; TensorFlow lives in a virtual environment of its own, .venv-keras, which
this command makes when it is missing (minutes, and 2 GB). Weights are random from a fixed seed; the batch norms get
statistics of their own, so that values neither vanish nor explode on the way, and the models end in logits. The
representative set of the full int8 conversion are crops of the pictures that scikit-image and scikit-learn ship.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.models import CACHE, ROOT, converted, pictures

ENVIRONMENT = ROOT / ".venv-keras"
ARCHITECTURES = ("ResNet50", "MobileNetV2")
KINDS = ("float32", "int8")


def main() -> int:
    """Make the models that are missing; returns the exit code."""
    parser = argparse.ArgumentParser(description="Convert ResNet50 and MobileNetV2 into .cache/models/.")
    parser.add_argument("--force", action="store_true", help="convert again what is there already")
    arguments = parser.parse_args()
    wanted = [(a, k) for a in ARCHITECTURES for k in KINDS if arguments.force or not converted(a, k).is_file()]
    if not wanted:
        print(f"all models are in {CACHE}")
        return 0
    python = _environment()
    CACHE.mkdir(parents=True, exist_ok=True)
    for architecture, kind in wanted:
        target = converted(architecture, kind)
        print(f"converting {architecture} to {kind} ...", flush=True)
        command = [python, "-m", "benchmarks.keras_to_tflite", architecture, kind, target]
        subprocess.run([*map(str, command), *map(str, pictures())], check=True, cwd=ROOT)
    return 0


def _environment() -> Path:
    """The interpreter that has TensorFlow, installed when it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / ".installed"
    if not stamp.is_file():
        print(f"installing TensorFlow into {ENVIRONMENT.name} (once, minutes) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "tensorflow", "pillow"]
        subprocess.run([*map(str, install)], check=True)
        stamp.touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
