"""Namespaces, links and rates: what is set, what passes, and that two networks do not meet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.network import Network, check_possible
from emulator.ownership import new_tag
from emulator.sweep import names
from slicemq.errors import ConfigError
from tests.emulator.machine import need_network
from tests.waiting import eventually

# Takes one connection and says how many bytes came.
_SINK = """
import socket
server = socket.create_server(("0.0.0.0", 5000))
print("listening", flush=True)
connection, _ = server.accept()
count = 0
while got := connection.recv(1 << 16):
    count += len(got)
print(count, flush=True)
"""
_SOURCE = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000), timeout=5) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""


@pytest.fixture
def network() -> Iterator[Network]:
    """A switch with two boards, `a` and `b`."""
    need_network()
    with Network(new_tag()) as made:
        made.add(["a", "b"])
        yield made


def inside(network: Network, name: str, *words: str) -> str:
    """What a command prints that runs on a board."""
    done = subprocess.run([*network.ports[name].prefix(), *words], capture_output=True, text=True, check=True)
    return done.stdout


def buckets(network: Network, name: str) -> list[int]:
    """The rates of the token buckets on a board's own interface, bit/s."""
    shown = json.loads(inside(network, name, "tc", "-json", "qdisc", "show", "dev", "eth0"))
    return [round(one["options"]["rate"] * 8) for one in shown if one["kind"] == "tbf"]


def send(network: Network, source: str, sink: str, count: int) -> int:
    """Send `count` bytes from one port to another; how many came."""
    listen = [*network.ports[sink].prefix(), sys.executable, "-c", _SINK]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        address = network.ports[sink].address
        inside(network, source, sys.executable, "-c", _SOURCE, address, str(count))
        return int(server.stdout.readline())


def reaches(network: Network, source: str, address: str) -> bool:
    """Whether a connection is refused by a live host (nothing listens there), not lost on its way."""
    code = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], 9), timeout=0.3)\n"
        "except ConnectionRefusedError: print('there')\n"
        "except OSError: pass"
    )
    return inside(network, source, sys.executable, "-c", code, address) == "there\n"


def test_a_rate_is_set_at_both_ends_and_can_change(network: Network) -> None:
    assert buckets(network, "a") == []
    network.set_rate("a", up=6e6, down=20e6)
    assert (buckets(network, "a"), network.ports["a"].down) == ([6_000_000], 20e6)
    network.set_rate("a", up=1e9)
    assert (buckets(network, "a"), network.ports["a"].down) == ([1_000_000_000], 20e6)
    assert buckets(network, "b") == []


def test_bytes_pass_and_are_counted_at_the_switch(network: Network) -> None:
    network.set_rate("a", up=1e9, down=1e9)
    before = network.traffic()
    assert send(network, "a", "b", 1_000_000) == 1_000_000
    after = network.traffic()
    assert 1_000_000 <= after["a"][0] - before["a"][0] < 1_200_000
    assert 1_000_000 <= after["b"][1] - before["b"][1] < 1_200_000
    assert after["a"][1] - before["a"][1] < 200_000


def test_the_host_itself_is_on_the_switch(network: Network) -> None:
    assert send(network, network.client, "a", 1000) == 1000
    assert reaches(network, "a", network.ports[network.client].address)


def test_a_pulled_plug_stops_everything_and_can_be_put_in_again(network: Network) -> None:
    address = network.ports["b"].address
    assert reaches(network, "a", address)
    network.disconnect("b")
    assert not reaches(network, "a", address)
    network.connect("b")
    eventually(lambda: reaches(network, "a", address))


def test_there_is_no_ipv6(network: Network) -> None:
    assert "inet6" not in inside(network, "a", "ip", "addr")


def test_two_networks_side_by_side_do_not_meet(network: Network) -> None:
    with Network(new_tag()) as other:
        other.add(["a", "b"])
        mine = {port.address for port in network.ports.values()}
        assert not mine & {port.address for port in other.ports.values()}
        assert send(other, "a", "b", 10) == 10
        assert not reaches(other, "a", network.ports["a"].address)
        switches = [name for name in names() if name.endswith("-_switch")]
        assert len(switches) >= 2
    assert send(network, "a", "b", 10) == 10


def test_nothing_stays(network: Network) -> None:
    tag = network.ports["a"].namespace.removesuffix("-a")
    interface = network.ports[network.client].inner
    assert any(name.startswith(tag) for name in names())
    network.close()
    assert not any(name.startswith(tag) for name in names())
    eventually(lambda: interface not in subprocess.check_output(["ip", "link"], text=True))


def test_without_root_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match=r"takes root.*--no-isolation"):
        check_possible()


def test_a_root_that_may_not_make_namespaces_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ip", "tc", "nsenter"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'Operation not permitted' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"Operation not permitted.*CAP_NET_ADMIN.*--no-isolation"):
        Network(new_tag()).__enter__()


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="install the package iproute2"):
        check_possible()
