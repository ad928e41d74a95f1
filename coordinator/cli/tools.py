"""What the composition root lends to the coordinator from the node's room: an interpreter and a calibration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_node.runtime import Interpreter


def load_interpreter(model: bytes | str | Path) -> Interpreter:
    """Open a model in the coordinator's runtime, with one thread."""
    from edge_node.runtime import open_interpreter

    return open_interpreter(model)


def runtime_name() -> str:
    """The coordinator's runtime and its version."""
    from edge_node.runtime import available_runtimes

    found = available_runtimes()
    return f"{found[0].name} {found[0].version}" if found else "none"


def reference_speeds(folder: Path) -> dict[str, float]:
    """This machine's runs per second of each operator class's calibration model, with one thread.

    In processor time, as profiles are: a quota of this process limits neither. Measured in a child process and kept
    in `folder`.
    """
    from dataclasses import replace

    from edge_node.capacity import measure_speeds, read_board

    board = replace(read_board(threads=1), cores=1.0)
    return measure_speeds(board, "auto", folder / "speeds.json").speeds
