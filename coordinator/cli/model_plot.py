"""A picture of what `slicemq model inspect` tells: bytes at each cut, and cost, along the model."""

from __future__ import annotations

import os
import secrets
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

from slicemq.errors import MissingDependencyError, StoreError, UsageError

SUFFIXES = (".png", ".svg", ".pdf")
# From this ratio of the widest to the narrowest cut on, a linear axis would hide the narrow ones.
_LOGARITHMIC = 20


def check_target(path: Path) -> None:
    """Refuse early what could not be drawn. Raises UsageError, MissingDependencyError."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot: expected a file that ends in {', '.join(SUFFIXES)}, got {path.name!r}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"--plot needs the package matplotlib (pip install 'slicemq[plot]'): {error}"
        ) from error


def draw(body: dict[str, Any], path: Path) -> None:
    """Draw the `description` of a model into `path`. Raises StoreError when that cannot be written."""
    from matplotlib.figure import Figure  # without pyplot: no display, no state

    figure = Figure(figsize=(11, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    cuts = body["cuts"]
    steps = body["steps"]
    above.set_title(
        f"{Path(body['file']).name}: {len(steps)} operators, {len(cuts)} places to cut, {body['size'] / 1e6:.1f} MB"
    )
    # The client sends its tensors straight to the slices after the cut as well.
    sides = (
        ("from the client", "#b9c9da", [cut["bytes"] + cut["bytes_from_client"] for cut in cuts]),
        ("from the slices before", "#3b6ea5", [cut["bytes"] for cut in cuts]),
    )
    for label, color, values in sides:
        above.bar([cut["position"] for cut in cuts], [v / 1e6 for v in values], 1.0, color=color, label=label)
    above.legend()
    above.set_ylabel("MB that cross a cut")
    largest = max((value for _, _, values in sides for value in values), default=0) / 1e6
    if largest > _LOGARITHMIC * min((cut["bytes"] for cut in cuts if cut["bytes"]), default=0) / 1e6:
        above.set_yscale("log")
        above.set_ylim(largest / 1e4, largest * 2)

    seconds = [step["estimated_seconds"] for step in steps]
    weights = [step["weight_bytes"] for step in steps]
    places = range(1, len(steps) + 1)
    for values, label, color in ((seconds, "time (estimate)", "#a5423b"), (weights, "weights", "#6a8f3c")):
        total = sum(values) or 1.0
        below.plot(places, [100 * value / total for value in accumulate(values)], label=label, color=color)
    below.set_ylabel("% of the model so far")
    below.set_xlabel("after so many steps (`model slice --at`)")
    below.set_xlim(0, len(steps) + 1)
    below.set_ylim(0, 102)
    below.legend(loc="upper left")
    picture = BytesIO()
    figure.savefig(picture, dpi=110, format=path.suffix.lower()[1:])
    write_picture(path, picture.getvalue())


def write_picture(path: Path, content: bytes) -> None:
    """Write a file that is whole or, as before, not there; raises StoreError."""
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            # A pipe or a device takes bytes, and no file in its place.
            target.write_bytes(content)
            return
        fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            fresh.write_bytes(content)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
