"""A whole simulated cluster: broker, boards, a coordinator, clients, an operator. PURE but for its seed.

All that looks random is drawn from one generator, in the order of simulated time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from coordinator.actions import Action, Clear, MakePlan, Publish, Respond
from coordinator.intents import Intent
from simulator.broker import Broker, Connection, Kind, Message
from simulator.checks import Checks
from simulator.client import Client
from simulator.clock import Clock, Process
from simulator.coordinator import Coordinator, Disk
from simulator.models import MB, SHAPES, Model, by_file, known
from simulator.node import Board, Node
from simulator.requester import Operator
from simulator.scenarios import Scenario
from simulator.wire import Wire
from slicemq.messages import Artifact, Assignment, PipelineDocument, Response
from slicemq.operations import RolloutDocument
from slicemq.outcomes import Outcome
from slicemq.topics import Topics

TOPICS = Topics("sim")
FIRST_FRAME = 5.0
"""When clients begin to submit; the first models are deployed by then, if nothing goes wrong."""
SPAN = 13.0
"""Seconds over which frames are submitted and faults come."""


class World:
    """A cluster in the making of `scenario` and `seed`; `say` is told what happens, with its time."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        json: bool = False,
        say: Callable[[float, str], None] | None = None,
    ) -> None:
        self.scenario = scenario
        self.random = random.Random(f"{scenario.name} {seed}")
        draw = self.random
        self.clock = Clock()
        self.wire = Wire(json)
        self.tells = say
        self.kind: Kind = "mosquitto" if draw.random() < 0.7 else "amqtt"
        self.broker = Broker(self.clock, draw, self.kind)
        self.checks = Checks(scenario.errors, on_end=self._gave_way)
        self.healed_at = 0.0
        # Models that the coordinator gave up, and said so.
        self.given_up: set[tuple[str, str]] = set()
        # What each pipeline's latest rollout is of.
        self.latest: dict[str, Artifact] = {}
        self.counts: Counter[str] = Counter()
        self.disk = Disk()
        self.boards = [
            Board(f"node-{number}", draw.choice((70, 110, 140, 170)) * MB)
            for number in range(draw.randint(*scenario.nodes))
        ]
        self.nodes: dict[str, Node] = {}
        self.twins: list[Node] = []
        # Boards that never come back.
        self.dead: set[str] = set()
        self.coordinator: Coordinator | None = None
        self.models: dict[str, Model] = {}
        self.wanted: dict[str, Intent | None] = {}
        self.refused: Counter[str] = Counter()
        self.past: list[Message] = []
        self.wills: list[Message] = []
        self.operator = Operator(self.broker, Process(self.clock, "operator"), TOPICS, self.wire, self._answered)
        self.clients: list[Client] = []
        self.broker.delivered = self._delivered
        self._begin()

    def say(self, text: str) -> None:
        """Tell what happens."""
        if self.tells is not None:
            self.tells(self.clock.now, text)

    # -- the beginning -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        draw = self.random
        pipelines = draw.randint(*self.scenario.pipelines)
        # The boards that always come back have room for all.
        for board in self.boards[:2]:
            board.memory = (170 if pipelines == 1 else 310) * MB
        self.say(f"{self.kind}, " + ", ".join(f"{board.name} {board.memory // MB} MB" for board in self.boards))
        self.start_coordinator()
        for board in self.boards:
            self.clock.at(draw.random(), self.start_node, board)
        self.operator.start()
        for number in range(pipelines):
            name = f"p{number}"
            self.models[name] = known(draw.choice(SHAPES), 1)
            self.clock.at(3.0, self.deploy, name)
            for count in range(draw.randint(*self.scenario.clients)):
                frames = draw.randint(*self.scenario.frames)
                times = sorted(FIRST_FRAME + SPAN * draw.random() for _ in range(frames))
                process = Process(self.clock, f"c-{number}-{count}")
                client = Client(
                    self.broker,
                    process,
                    TOPICS,
                    name,
                    1 + len(self.clients),
                    times,
                    self.wire,
                    self._ended,
                    self.checks.window,
                )
                self.clients.append(client)
                self.clock.at(1.0 + draw.random(), client.start)

    def start_coordinator(self) -> None:
        """A coordinator begins a life, from what the store has."""
        process = Process(self.clock, "coordinator")
        self.coordinator = Coordinator(
            self.broker,
            process,
            TOPICS,
            self.disk,
            self.random,
            self.wire,
            self._acts,
            self.checks.came_through,
        )
        self.say(f"coordinator {self.coordinator.instance[:8]} starts")
        self.coordinator.start()

    def start_node(self, board: Board) -> None:
        """A board's agent begins a life."""
        self.nodes[board.name] = node = self._node(board)
        self.say(f"{board.name} starts, epoch {node.epoch[:8]}")
        node.start()

    def start_twin(self, board: Board) -> Node:
        """Another board's agent is started under the same id."""
        other = Board(board.name, board.memory)
        node = self._node(other)
        self.twins.append(node)
        self.say(f"{board.name}: a second node of this id starts, epoch {node.epoch[:8]}")
        node.start()
        return node

    def _gave_way(self, node: Node) -> None:
        self.say(f"{node.board.name}, epoch {node.epoch[:8]}: another node has this id")
        if self.nodes.get(node.board.name) is node:
            self.clock.after(3.0, self.start_again, node)

    def start_again(self, node: Node) -> None:
        """The board of a life that is over begins another one, if it has not."""
        if self.nodes[node.board.name] is node:
            self.start_node(node.board)

    def _node(self, board: Board) -> Node:
        process = Process(self.clock, board.name)
        return Node(self.broker, process, TOPICS, board, self.random, self.wire, self._serves, self.checks)

    def _serves(self, _sha256: str) -> bool:
        one = self.coordinator
        return one is not None and one.process.alive and not one.process.paused and one.session.up

    # -- what is asked -------------------------------------------------------------------------------------

    def deploy(self, name: str, policy: dict[str, Any] | None = None) -> None:
        """Ask for the pipeline's model; `policy`: how it takes over from what serves."""
        model = self.models[name]
        options = {"slices": self.random.randint(1, 4), "turns": 2 if self.random.random() < 0.2 else 1}
        self.say(f"{name}: deploy of {model.name} version {model.version}, {options}, {policy or 'no policy'}")
        self.operator.deploy(Intent(name, model.artifact, None, options), policy)

    def undeploy(self, name: str) -> None:
        """Ask for the pipeline's end."""
        self.say(f"{name}: undeploy")
        self.operator.ask("undeploy", {"name": name})

    def drain(self, board: Board, seconds: float) -> None:
        """Ask for a node to be emptied, and `seconds` later to be used again."""
        self.say(f"{board.name}: drain for {seconds:.1f} s")
        self.operator.ask("drain", {"node": board.name})
        self.clock.after(seconds, self.operator.ask, "undrain", {"node": board.name})

    def _answered(self, verb: str, body: dict[str, Any], response: Response) -> None:
        self.say(f"answer to {verb} {body}: {response.error or response.body}")
        name = body.get("name", "")
        if verb == "undeploy" and not response.error:
            self.wanted[name] = None
        elif verb == "deploy":
            if response.error:
                self.refused[response.error.split(":")[0][:60]] += 1
                if self.wanted.get(name) is None and "rollout" not in body:
                    # A first deploy that did not fit: the operator tries again later.
                    self.clock.after(3.0, self.deploy, name)
                return
            self.wanted[name] = Intent(name, by_file(body["model"]["sha256"]).artifact, None, body["options"])
        elif body.get("action") == "rollback" and not response.error and response.body["state"] == "preparing":
            # What served before. The revision may be gone before anybody else heard of it.
            known = self.checks.models.get((name, response.body["revision"]))
            self.wanted[name] = Intent(name, known.artifact if known is not None else self.latest[name])

    # -- what happens --------------------------------------------------------------------------------------

    def _ended(self, client: Client, outcome: Outcome) -> None:
        if self.tells is not None:
            how = outcome.reason or outcome.revision
            self.say(f"{client.name} frame {outcome.sequence}: {how}, {outcome.attempts} attempts")
        self.checks.outcome(client, outcome)

    def _acts(self, coordinator: Coordinator, action: Action) -> None:
        self.checks.action(coordinator, action)
        if isinstance(action, Publish) and isinstance(action.document, RolloutDocument):
            self._look(action.document)
        if self.tells is None:
            return
        match action:
            case Publish(topic, PipelineDocument() as document):
                routes = ", ".join(f"{route.revision} {route.state}" for route in document.routes)
                self.say(f"{document.name} {document.state}: {routes}; {document.reason}")
            case Publish(topic, Assignment() as document):
                keys = ", ".join(f"{one.pipeline}/{one.revision}/{one.slice}" for one in document.slices)
                self.say(f"assignment of {document.node}: {keys or 'nothing'} ({document.stamp.counter})")
            case Publish(topic, _) | Clear(topic):
                self.say(f"{type(action).__name__} {topic}")
            case MakePlan():
                room = ", ".join(f"{one.node} {one.memory // MB} MB" for one in action.nodes)
                self.say(f"plan {action.job} of {action.intent.name} on {room or 'nothing'}")
            case Respond(client, response):
                self.say(f"respond to {client}: {response.error or response.body}")

    def _look(self, document: RolloutDocument) -> None:
        """A pipeline's rollouts say what was asked for last, and which were given up, and why."""
        latest = document.current or (document.history[-1] if document.history else None)
        if latest is not None:
            self.latest[document.name] = latest.model
        for entry in document.history:
            if entry.state in ("rolled-back", "refused"):
                self.checks.gave_up(document.name, entry)
                self.given_up.add((document.name, entry.model.sha256))

    def _delivered(self, connection: Connection | None, message: Message) -> None:
        if message.retain and message.document is not None:
            if connection is None:
                self.wills.append(message)
                self.say(f"will: {message.topic}")
            elif len(self.past) < 400:
                self.past.append(message)
