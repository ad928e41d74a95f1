"""What this machine permits: tests of the emulator that need more are skipped, with the reason."""

from __future__ import annotations

import pytest

from emulator.cgroups import limit
from emulator.network import check_possible
from slicemq.errors import ConfigError


def need_network() -> None:
    """Skip where namespaces cannot be made."""
    try:
        check_possible()
    except ConfigError as error:
        pytest.skip(str(error))


def need_limits() -> None:
    """Skip where processes cannot be limited."""
    try:
        limit("probe").remove()
    except ConfigError as error:
        pytest.skip(str(error))
