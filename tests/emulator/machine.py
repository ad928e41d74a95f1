"""What this machine permits: tests of the emulator that need more are skipped, with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from emulator.cgroups import limit
from emulator.network import Network
from emulator.node import speeds_name
from emulator.ownership import new_tag
from emulator.scenario import NodeType
from slicemq.errors import ConfigError
from tests.e2e.scene import measured_speeds


def need_network() -> None:
    """Skip where namespaces cannot be made."""
    try:
        with Network(new_tag()):
            pass
    except ConfigError as error:
        pytest.skip(str(error))


def need_limits() -> None:
    """Skip where processes cannot be limited."""
    try:
        limit("probe").remove()
    except ConfigError as error:
        pytest.skip(str(error))


def measured(folder: Path) -> Path:
    """A folder with measurements of boards of one thread without a limit: none of them measures itself again."""
    folder.mkdir(exist_ok=True)
    shutil.copy(measured_speeds(), folder / speeds_name(NodeType(threads=1)))
    return folder
