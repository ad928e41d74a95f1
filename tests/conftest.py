"""Fixtures for all tests: both brokers, started once, and a cluster id for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from emulator.brokers import Amqtt, Broker, Mosquitto

# They start nodes, or measure: two of them at once would share the machine's cores.
_WITH_PROCESSES = ("e2e", "edge_node", "emulator", "benchmarks")


def _lane(nodeid: str) -> str:
    """What a test runs one after the other with: all tests of processes, else those of its file."""
    file = nodeid.partition("::")[0]
    return "processes" if file.split("/")[1] in _WITH_PROCESSES else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest lane begins first."""
    items.sort(key=lambda item: _lane(item.nodeid) != "processes")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2`: tests of whole processes one after the other, the others file by file beside."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _lane(nodeid)

    return Lanes(config, log)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Verbs of the tests keep what they measure in a folder of their own, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[Broker]:
    """A running mosquitto with the shipped configuration. Tests share it: they keep to their own cluster."""
    with Mosquitto() as running:
        yield running


@pytest.fixture(scope="session")
def amqtt() -> Iterator[Broker]:
    """A running embedded broker. Tests share it: they keep to their own cluster."""
    with Amqtt() as running:
        yield running


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each of the two brokers in turn."""
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["mosquitto", "amqtt"])
def own_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker for one test alone, which may kill, freeze and restart it."""
    with Mosquitto() if request.param == "mosquitto" else Amqtt() as running:
        yield running


@pytest.fixture
def cluster() -> str:
    """A cluster id that no other test uses."""
    return f"test-{secrets.token_hex(4)}"
