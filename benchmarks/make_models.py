"""Make the Keras models of tests and benchmarks once, in .cache/models/, with what `slicemq model convert` uses.

    python -m benchmarks.make_models [--only resnet50,resnet50-int8,...] [--force]

`benchmarks.keras_models` builds each architecture as a .keras file, with a calibration set: crops of the pictures
that scikit-image and scikit-learn ship. `converters.sources` then converts it in each kind: float32, float16
weights, dynamic range, full int8. Both run TensorFlow in child processes: in the project's own virtual environment
if it has TensorFlow, else in .venv-keras. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.models import ARCHITECTURES, CACHE, ROOT, converted, pictures, short_name
from converters.sources import Quantize, convert
from slicemq.errors import SliceMQError

SOURCES = ROOT / ".cache" / "keras"
APART = ROOT / ".venv-keras"
_QUANTIZE: dict[str, Quantize] = {"float32": "none", "float16": "float16", "dynamic": "dynamic", "int8": "int8"}


def main() -> int:
    """Make the models that are missing; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the Keras models of the benchmarks in .cache/models/.")
    parser.add_argument("--only", help="comma-separated short names; default: all")
    parser.add_argument("--force", action="store_true", help="make again what is there already")
    arguments = parser.parse_args()
    names = {short_name(a, kind): (a, kind) for a, kinds in ARCHITECTURES.items() for kind in kinds}
    only = list(names) if arguments.only is None else arguments.only.split(",")
    unknown = [name for name in only if name not in names]
    if unknown:
        parser.error(f"--only: {unknown[0]} is not one of {', '.join(names)}")
    wanted: dict[str, list[str]] = {}
    for name in dict.fromkeys(only):
        architecture, kind = names[name]
        if arguments.force or not converted(architecture, kind).is_file():
            wanted.setdefault(architecture, []).append(kind)
    if not wanted:
        print(f"all models are in {CACHE}")
        return 0
    python = with_tensorflow()
    if python is None:
        sys.stderr.write("TensorFlow is not installed: run `make models`\n")
        return 1
    CACHE.mkdir(parents=True, exist_ok=True)
    for architecture, kinds in wanted.items():
        try:
            _make(architecture, kinds, python)
        except SliceMQError as error:
            sys.stderr.write(f"{architecture}: {error}\n")
            return error.exit_code
    return 0


def _make(architecture: str, kinds: list[str], python: str) -> None:
    """Build one architecture, convert it in each kind; a model appears under its name only when it is whole."""
    SOURCES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SOURCES) as folder:
        source, samples = Path(folder) / f"{architecture.lower()}.keras", Path(folder) / "samples"
        started = time.monotonic()
        build = [python, "-m", "benchmarks.keras_models", architecture, source, samples, *pictures()]
        done = subprocess.run([*map(str, build)], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(done.stderr[-2000:])
            raise SliceMQError(f"benchmarks.keras_models ended with {done.returncode}")
        print(f"{architecture}: built in {time.monotonic() - started:.0f} s", flush=True)
        for kind in kinds:
            started = time.monotonic()
            target, whole = converted(architecture, kind), Path(folder) / f"{kind}.tflite"
            calibration = samples if kind == "int8" else None
            convert(source, whole, quantize=_QUANTIZE[kind], calibration=calibration, python=python)
            shutil.move(whole, target)
            print(
                f"{target.name}: {target.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.0f} s",
                flush=True,
            )


def with_tensorflow() -> str | None:
    """The interpreter that has TensorFlow: this one, or that of .venv-keras."""
    if importlib.util.find_spec("tensorflow"):
        return sys.executable
    apart = APART / "bin" / "python"
    return str(apart) if apart.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
