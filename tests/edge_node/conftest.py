"""A node's state folder, and the coordinator that the tests play."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_node.capacity import measure_speeds, read_board
from emulator.brokers import Broker
from tests.edge_node.cluster import Coordinator


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The speeds of this machine, so that not each node of the tests measures them."""
    file = tmp_path_factory.mktemp("speeds") / "speeds.json"
    measure_speeds(read_board(), "auto", file)
    return file.read_bytes()


@pytest.fixture
def state(tmp_path: Path, measured: bytes) -> Path:
    """A node's state folder with speeds and an empty cache."""
    (tmp_path / "speeds.json").write_bytes(measured)
    return tmp_path


@pytest.fixture
def coordinator(broker: Broker, cluster: str) -> Iterator[Coordinator]:
    """The other side of the contract."""
    with Coordinator(broker.options, cluster) as running:
        yield running
