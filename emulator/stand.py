"""What an emulated cluster stands on: its network, its groups, its broker, and a place for each board."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from emulator.brokers import Amqtt, Broker, Mosquitto
from emulator.cgroups import Group, limit
from emulator.network import Network
from emulator.node import EmulatedNode, needs_relay
from emulator.processes import on_starter
from emulator.relay_handle import RelayProcess
from emulator.scenario import Board, Scenario
from slicemq.errors import ConfigError

# An underscore is in no node's id.
_BROKER = "_broker"
_PORT, _WS_PORT, _DATA_PORT, _DATA_WS_PORT = 1883, 9001, 1884, 9002


class Stand:
    """Makes the parts of a cluster, marked with `tag`; what undoes them goes on `stack`.

    isolate: namespaces and links, and limits that must be permitted; else loopback, and limits where they may be.
    """

    def __init__(self, scenario: Scenario, tag: str, stack: contextlib.ExitStack, *, isolate: bool) -> None:
        self._scenario = scenario
        self._tag = tag
        self._stack = stack
        self.network: Network | None = None
        if isolate:
            self.network = stack.enter_context(Network(tag))
            self.network.add([_BROKER, *(board.name for board in scenario.boards())])
            self._shape(self.network)

    def open_broker(self) -> tuple[Broker, Group | None]:
        """The broker, started in its place, and its group (None: the system permits none)."""
        part = self._scenario.broker
        group = self.group(_BROKER, share=part.cpu)
        where = self._place(_BROKER, _PORT, _WS_PORT, group)
        broker: Broker = Mosquitto(**where) if part.kind == "mosquitto" else Amqtt(**where)
        self._stack.callback(broker.close)
        broker.start()
        return broker, group

    def node(self, board: Board, folder: Path, broker: Broker) -> EmulatedNode:
        """A board that is not started yet, with its limits, its relay and its data broker."""
        group = self.group(board.name, share=board.kind.cpu, memory=board.kind.memory)
        prefix = [*self._inside(board.name), *(group.prefix() if group is not None else [])]
        node = EmulatedNode(board, folder, prefix, broker.url, group)
        self._stack.callback(node.close)
        if board.kind.data_broker:
            node.data_broker = Mosquitto(**self._place(board.name, _DATA_PORT, _DATA_WS_PORT, group))
        if needs_relay(self._scenario, board):
            node.relay = self._relay(board, broker)
            node.gateway = f"mqtt://127.0.0.1:{node.relay.port}"
        return node

    def group(self, name: str, *, share: float | None = None, memory: int | None = None) -> Group | None:
        """A group of that name; None where the system permits none and isolation is not asked for."""
        try:
            group = limit(name, share=share, memory=memory, tag=self._tag)
        except ConfigError:
            if self.network is not None:
                raise
            return None
        self._stack.callback(_clear, group)
        return group

    def _shape(self, network: Network) -> None:
        client, broker = self._scenario.client, self._scenario.broker
        network.set_rate(network.client, up=client.up or client.rate, down=client.down or client.rate)
        network.set_rate(_BROKER, up=broker.up or broker.rate, down=broker.down or broker.rate)
        for board in self._scenario.boards():
            network.set_rate(board.name, up=board.up, down=board.down)

    def _relay(self, board: Board, broker: Broker) -> RelayProcess:
        kind = board.kind
        listen = "127.0.0.1:1883" if self.network is not None else "127.0.0.1:0"
        to = f"{broker.host}:{broker.port}"
        options: dict[str, Any] = {"up": kind.delay, "down": kind.delay, "jitter": kind.jitter}
        options |= {"seed": self._scenario.run.seed, "prefix": self._inside(board.name)}
        return on_starter(lambda: RelayProcess(listen, to, **options))

    def _inside(self, name: str) -> list[str]:
        return self.network.ports[name].prefix() if self.network is not None else []

    def _place(self, name: str, port: int, ws_port: int, group: Group | None) -> dict[str, Any]:
        """Where a broker listens, and what puts it there."""
        prefix = [*self._inside(name), *(group.prefix() if group is not None else [])]
        where: dict[str, Any] = {"prefix": prefix, "tag": self._tag}
        if self.network is not None:
            where |= {"host": self.network.ports[name].address, "port": port, "ws_port": ws_port}
        return where


def _clear(group: Group) -> None:
    group.kill()
    group.remove()
