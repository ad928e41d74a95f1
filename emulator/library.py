"""The scenarios that come with SliceMQ, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from emulator.scenario import Scenario, read_scenario
from slicemq.errors import UsageError

FOLDER = Path(__file__).with_name("scenarios")
_SUFFIX = ".toml"


def shipped() -> list[Scenario]:
    """Every scenario that comes with SliceMQ, in the order of the names."""
    return [read_scenario(path) for path in sorted(FOLDER.glob(f"*{_SUFFIX}"))]


def find_scenario(given: str) -> Path:
    """The file of a scenario: a path (with a folder or `.toml` in it), or the name of one that comes with SliceMQ.

    Raises UsageError, which names those that there are.
    """
    if given.endswith(_SUFFIX) or "/" in given:
        return Path(given)
    path = FOLDER / f"{given}{_SUFFIX}"
    if path.is_file():
        return path
    names = sorted(one.stem for one in FOLDER.glob(f"*{_SUFFIX}"))
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected a file, or one of {', '.join(names)}"
    raise UsageError(f"no scenario {given!r}: {hint}")
