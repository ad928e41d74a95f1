"""Faults, drawn and done to a world. PURE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.broker import KEEPALIVE, Connection, Message
from simulator.faults import Fault
from simulator.models import FLAWS, SHAPES, known
from simulator.node import Node
from simulator.world import FIRST_FRAME, SPAN, World

_SILENT = 1.5 * KEEPALIVE


class Injection:
    """Draws when which fault comes, and does it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._snapshots: list[dict[str, Any]] = []
        draw, scenario = world.random, world.scenario
        for _ in range(draw.randint(*scenario.faults) if scenario.kinds else 0):
            fault = draw.choice(scenario.kinds)
            world.clock.at(FIRST_FRAME + SPAN * draw.random(), self.inject, fault)
        for _ in range(draw.randint(0, scenario.most_changes) if scenario.changes else 0):
            world.clock.at(FIRST_FRAME + SPAN * draw.random(), self.change, draw.choice(scenario.changes))
        for number in range(4):
            world.clock.at(FIRST_FRAME + SPAN * number / 4, self._remember)

    def inject(self, fault: Fault) -> None:
        """Do a fault."""
        world = self._world
        world.counts[fault.value] += 1
        world.say(f"FAULT {fault.value}")
        _DO[fault](self)
        world.healed_at = max(world.healed_at, world.clock.now)

    def change(self, kind: str) -> None:
        """An operator asks for something."""
        world = self._world
        world.counts[kind] += 1
        world.healed_at = max(world.healed_at, world.clock.now)
        if kind == "drain":
            seconds = self._some(2.0, 8.0)
            world.drain(world.random.choice(world.boards), seconds)
            world.healed_at = max(world.healed_at, world.clock.now + seconds)
            return
        name = world.random.choice(list(world.models))
        if kind == "steer":
            self._steer(name)
            return
        before = world.models[name]
        if kind == "again":
            world.undeploy(name)
        if kind == "rollout":
            flaw = world.random.choice(("", "", *FLAWS))
            world.models[name] = known(before.shape, before.version + 1, flaw)
            policy = self._policy()
            world.deploy(name, policy)
            if policy["promote"] == "manual":
                # What is healthy waits for an operator without end.
                promote = {"name": name, "action": "promote"}
                self._until(self._some(6.0, 14.0), world.operator.ask, "rollout", promote)
            return
        shape = world.random.choice(SHAPES) if kind == "reshape" else before.shape
        world.models[name] = known(shape, before.version + 1)
        world.deploy(name)

    def _policy(self) -> dict[str, Any]:
        draw = self._world.random
        steps = draw.choice(({"canary": 0.3}, {"shadow": 0.5}, {"canary": 0.2, "shadow": 1.0}))
        promote = draw.choice(("auto", "auto", "auto", "manual"))
        seconds = float(draw.randint(1, 3))
        least = {"frames": draw.randint(2, 8), "seconds": seconds, "deadline": 2 * seconds + draw.randint(4, 12)}
        return {**steps, **least, "promote": promote, "max_difference": 0.1}

    def _steer(self, name: str) -> None:
        """An operator steers the rollout under way, if there is one; what was paused goes on later."""
        world = self._world
        action = world.random.choice(("pause", "promote", "rollback"))
        world.operator.ask("rollout", {"name": name, "action": action})
        if action == "pause":
            self._until(self._some(1.0, 6.0), world.operator.ask, "rollout", {"name": name, "action": "resume"})

    # -- helpers -------------------------------------------------------------------------------------------

    def _remember(self) -> None:
        self._snapshots.append(dict(self._world.broker.retained))

    def _some(self, least: float, most: float) -> float:
        return least + (most - least) * self._world.random.random()

    def _until(self, delay: float, heal: Callable[..., None], *values: Any) -> None:
        """`heal` in `delay` seconds; the fault lasts until then."""
        world = self._world
        world.healed_at = max(world.healed_at, world.clock.now + delay)
        world.clock.after(delay, heal, *values)

    def _node(self) -> Node | None:
        """A node that lives."""
        living = [node for node in self._world.nodes.values() if node.process.alive]
        return self._world.random.choice(living) if living else None

    def _cut(self, connections: list[Connection]) -> None:
        """The connections end, for both sides; what is on its way is lost."""
        for connection in connections:
            self._world.broker.lose(connection)

    def _partition(self, connections: list[Connection], seconds: float) -> None:
        world = self._world
        for connection in connections:
            connection.sever()
            if seconds > _SILENT:
                world.clock.after(_SILENT, self._expire, connection)

    def _expire(self, connection: Connection) -> None:
        """Nothing has come for 1.5 x keepalive: both sides end a connection that is still cut."""
        if connection.cut:
            self._world.broker.expire(connection)
            connection.process.call(connection.silent)

    # -- nodes ---------------------------------------------------------------------------------------------

    def _node_ends(self, *, noticed: bool) -> None:
        world, node = self._world, self._node()
        if node is None:
            return
        board = node.board
        world.say(f"{board.name} dies")
        connections = node.connections()
        node.crash(noticed=noticed)
        if not noticed:
            for connection in connections:
                world.clock.after(_SILENT, world.broker.expire, connection)
        alive = len(world.boards) - len(world.dead)
        if alive > 2 and board not in world.boards[:2] and world.random.random() < 0.3:
            world.dead.add(board.name)
            if not noticed and world.kind == "amqtt":
                # The system ends the sockets in the end.
                for connection in connections:
                    self._until(10.0, world.broker.lose, connection)
        else:
            self._until(self._some(0.2, 10.0), self._world.start_again, node)

    def _do_node_crash(self) -> None:
        self._node_ends(noticed=True)

    def _do_node_power(self) -> None:
        self._node_ends(noticed=False)

    def _do_node_pause(self) -> None:
        node = self._node()
        if node is None:
            return
        seconds = self._some(0.2, 9.0)
        self._world.say(f"{node.board.name} is stopped for {seconds:.1f} s")
        processes = [node.process, *(worker.process for worker in node.workers.values())]
        for process in processes:
            process.pause()
        if seconds > _SILENT:
            for connection in node.connections():
                self._world.clock.after(_SILENT, self._if_paused, connection)
        self._until(seconds, self._resume, processes)

    def _if_paused(self, connection: Connection) -> None:
        if connection.process.paused:
            self._world.broker.expire(connection)

    def _resume(self, processes: list[Any]) -> None:
        for process in processes:
            process.resume()

    def _do_node_cut(self) -> None:
        if (node := self._node()) is not None:
            self._world.say(f"{node.board.name}: its connections end")
            self._cut(node.connections())

    def _do_node_partition(self) -> None:
        node = self._node()
        if node is None:
            return
        seconds = self._some(0.3, 12.0)
        board = node.board
        self._world.say(f"{board.name} is cut off for {seconds:.1f} s")
        board.reachable = False
        connections = node.connections()
        self._partition(connections, seconds)
        self._until(seconds, self._reach, node, connections)

    def _reach(self, node: Node, connections: list[Connection]) -> None:
        node.board.reachable = True
        for connection in connections:
            connection.mend()

    def _do_node_slow(self) -> None:
        if (node := self._node()) is not None:
            manners = node.board.manners
            manners.seconds = self._some(0.1, 0.6)
            self._until(self._some(1.0, 8.0), setattr, manners, "seconds", 0.02)

    def _do_node_twin(self) -> None:
        if (node := self._node()) is not None:
            twin = self._world.start_twin(node.board)
            self._until(self._some(3.0, 6.0), self._end_twin, twin)

    def _end_twin(self, twin: Node) -> None:
        if twin.process.alive and not twin.gave_way:
            self._world.say(f"{twin.board.name}: the second node is stopped")
            twin.stop()

    def _do_worker_crash(self) -> None:
        living = [
            (node, number)
            for node in self._world.nodes.values()
            if node.process.alive
            for number, worker in node.workers.items()
            if worker.process.alive
        ]
        if living:
            node, number = self._world.random.choice(living)
            self._world.say(f"{node.board.name}: worker {number} is killed")
            node.kill(number, "signal SIGKILL")

    def _do_frame_crash(self) -> None:
        world = self._world
        node, client = self._node(), world.random.choice(world.clients)
        if node is not None:
            sequence = len(client.payloads) + world.random.randint(0, 4)
            node.board.manners.poison[client.name, client.stream, sequence] = 1

    def _do_frame_poison(self) -> None:
        world = self._world
        client = world.random.choice(world.clients)
        name = (client.name, client.stream, len(client.payloads) + world.random.randint(0, 4))
        world.say(f"{client.name} frame {name[2]} is poisoned")
        for board in world.boards:
            board.manners.poison[name] = 1000

    def _do_fetch_fails(self) -> None:
        if (node := self._node()) is not None:
            node.board.cache.clear()
            node.board.fetches_fail = self._world.random.randint(1, 2)
            self._until(self._some(0.5, 3.0), setattr, node.board, "fetches_fail", 0)

    # -- the coordinator -----------------------------------------------------------------------------------

    def _do_coordinator_crash(self) -> None:
        world, one = self._world, self._world.coordinator
        if one is not None and one.process.alive:
            one.crash()
            self._until(self._some(0.1, 6.0), world.start_coordinator)

    def _do_coordinator_pause(self) -> None:
        one = self._world.coordinator
        if one is not None and one.process.alive and not one.process.paused:
            seconds = self._some(0.2, 9.0)
            one.process.pause()
            if seconds > _SILENT:
                for connection in one.connections():
                    self._world.clock.after(_SILENT, self._if_paused, connection)
            self._until(seconds, one.process.resume)

    def _do_coordinator_cut(self) -> None:
        one = self._world.coordinator
        if one is not None and one.process.alive:
            self._cut(one.connections())

    def _do_coordinator_partition(self) -> None:
        one = self._world.coordinator
        if one is not None and one.process.alive:
            self._sever_some(one.connections())

    def _sever_some(self, connections: list[Connection]) -> None:
        seconds = self._some(0.3, 12.0)
        self._partition(connections, seconds)
        self._until(seconds, self._mend, connections)

    def _mend(self, connections: list[Connection]) -> None:
        for connection in connections:
            connection.mend()

    def _do_disk_full(self) -> None:
        self._world.disk.full = True
        self._until(self._some(0.5, 6.0), setattr, self._world.disk, "full", False)

    # -- clients -------------------------------------------------------------------------------------------

    def _client_connections(self) -> list[Connection]:
        world = self._world
        client = world.random.choice(world.clients)
        sessions = world.random.choice(([client.control], [client.link], [client.control, client.link]))
        return [one.connection for one in sessions if one.connection is not None]

    def _do_client_cut(self) -> None:
        self._cut(self._client_connections())

    def _do_client_partition(self) -> None:
        self._sever_some(self._client_connections())

    # -- the broker and its messages -----------------------------------------------------------------------

    def _broker_ends(self, retained: dict[str, Any]) -> None:
        world = self._world
        if world.broker.up:
            # Also one that was ending: whoever waits for its end finds it down.
            world.broker.stop()
            self._until(self._some(0.1, 4.0), world.broker.start, retained)

    def _do_broker_restart(self) -> None:
        broker = self._world.broker
        self._broker_ends(dict(broker.retained) if self._world.kind == "mosquitto" else {})

    def _do_broker_ends(self) -> None:
        world = self._world
        if world.broker.up and not world.broker.ends:
            seconds = self._some(0.002, 0.3)
            world.broker.end(seconds)
            self._until(seconds + 0.01, self._has_ended)

    def _has_ended(self) -> None:
        broker = self._world.broker
        self._broker_ends(dict(broker.retained) if self._world.kind == "mosquitto" else {})

    def _do_broker_forgets(self) -> None:
        self._broker_ends({})

    def _do_broker_stale(self) -> None:
        world = self._world
        old = world.random.choice(self._snapshots) if self._snapshots else world.broker.retained
        self._broker_ends(dict(old))

    def _do_subscriptions_lost(self) -> None:
        seconds = self._some(1.0, 4.0)
        broker = self._world.broker
        broker.loses_subscriptions_until = self._world.clock.now + seconds
        self._until(seconds, self._remember)
        if broker.connections:
            self._cut([self._world.random.choice(list(broker.connections))])

    def _do_duplicate(self) -> None:
        connections = list(self._world.broker.connections)
        for _ in range(min(3, len(connections))):
            self._world.random.choice(connections).repeat()

    def _do_delay(self) -> None:
        connections = list(self._world.broker.connections)
        if connections:
            one = self._world.random.choice(connections)
            one.slow = self._some(0.05, 0.5)
            self._until(self._some(1.0, 6.0), setattr, one, "slow", 0.0)

    def _do_late_will(self) -> None:
        """Of a life that is over, or of a connection that its own process has replaced."""
        world = self._world
        wills = [*world.wills, *self._own_wills()]
        if wills and world.broker.up:
            will = world.random.choice(wills)
            world.say(f"late: {will.topic}")
            world.broker.take(None, will)

    def _own_wills(self) -> list[Message]:
        sessions = [node.session for node in self._world.nodes.values() if node.process.alive]
        wills = [one.connection.will for one in sessions if one.connection is not None]
        return [Message(will.topic, will.document, 1, True) for will in wills if will is not None]

    def _do_stale_publish(self) -> None:
        world = self._world
        if world.past and world.broker.up:
            message = world.random.choice(world.past)
            world.say(f"stale: {message.topic}")
            world.broker.take(None, message)

    def _do_clock_jump(self) -> None:
        self._world.clock.ahead += self._some(-86400.0, 86400.0)


_DO: dict[Fault, Callable[[Injection], None]] = {
    fault: getattr(Injection, "_do_" + fault.value.replace("-", "_")) for fault in Fault
}
