"""A coordinator, simulated: its core with a session, a store, a prober and a planner that takes time. PURE.

What coordinator/service.py, probe.py and workshop.py do with threads and processes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from coordinator.actions import (
    PROBES_AT_ONCE,
    Action,
    Clear,
    Listen,
    MakePlan,
    Persist,
    PlanAhead,
    Probe,
    Publish,
    Respond,
    StopProbe,
)
from coordinator.adoption import adopt_running, assignments_seen
from coordinator.cluster import Cluster
from coordinator.contingency import Unmade
from coordinator.inbox import Inbox
from coordinator.intents import PipelineRecord
from coordinator.settings import Settings
from coordinator.store import from_body, to_body
from simulator.broker import Broker, Draw, Will
from simulator.clock import Process
from simulator.models import Value, by_file, plan
from simulator.session import Session
from simulator.wire import Wire
from slicemq.errors import CoordinatorError, SliceMQError
from slicemq.frames import FrameHeader
from slicemq.messages import Beat, CoordinatorState, Stamp, encode
from slicemq.topics import Topics

_FIRST_WAIT = 1.0
_LONGEST_WAIT = 15.0
# How long the events that are there keep a coordinator busy.
_TICK_AFTER = 0.005
_DIFFERS = "golden frame: results differ"
SETTINGS = Settings(lost_shown=12.0, removed_shown=6.0, prepare_most=60.0)


@dataclass
class Disk:
    """What lasts of a coordinator: the last records that were written. `full`: nothing can be written."""

    term: int = 0
    records: tuple[PipelineRecord, ...] = ()
    learnt: dict[str, Any] = field(default_factory=dict)
    full: bool = False

    def save(self, cluster: Cluster) -> None:
        """Keep copies, which is quick; what a file keeps of them is found out when they are read."""
        self.term = cluster.term
        self.records = tuple(_copied(record) for record in cluster.records.values())

    def load(self, now: float) -> tuple[int, tuple[PipelineRecord, ...]]:
        """Read them as from the file that would have been written."""
        stored = from_body(json.loads(json.dumps(to_body(self.term, self.records, self.learnt))), now)
        return stored.term, stored.records


def _copied(record: PipelineRecord) -> PipelineRecord:
    made = copy.copy(record)
    made.revisions = {name: copy.copy(revision) for name, revision in record.revisions.items()}
    return made


@dataclass
class _Probing:
    probe: Probe
    next_at: float = 0.0
    wait: float = _FIRST_WAIT
    parts: dict[int, dict[int, Any]] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)


class Coordinator:
    """One life of a coordinator. `on_action(coordinator, action)` is told of each before it is carried out."""

    def __init__(
        self,
        broker: Broker,
        process: Process,
        topics: Topics,
        disk: Disk,
        draw: Draw,
        wire: Wire,
        on_action: Callable[[Coordinator, Action], None],
        on_probed: Callable[[str, str, dict[int, Any]], None],
    ) -> None:
        self.process = process
        self.disk = disk
        self.instance = f"{int(draw.random() * 2**53):016x}"
        self.error: SliceMQError | None = None
        self._topics = topics
        self._draw = draw
        self._wire = wire
        self._on_action = on_action
        self._on_probed = on_probed
        term, records = disk.load(process.clock.now)
        self.cluster = Cluster(topics, instance=self.instance, records=records, term=term, settings=SETTINGS)
        self.cluster.lazy = True
        self._ticks = False
        self._inbox = Inbox(topics, self.cluster, self.instance, wire.unpack)
        self._held: list[Action] = []
        self._hold_until = 0.0
        self._heard_back: float | None = None
        self._beats = 0
        self._stream = int(draw.random() * 2**53)
        self._sequence = 0
        self._probing: dict[tuple[str, str], _Probing] = {}
        self._ahead: int | None = None
        name = f"coordinator-{self.instance[:8]}"
        self._name = name
        self.session = Session(
            broker,
            process,
            name,
            self._inbox.filters,
            will=Will(topics.coordinator, wire.pack(self._state("lost"))),
            on_message=self._on_message,
            on_down=self._on_down,
        )
        self.link = Session(broker, process, f"{name}-data", [topics.results("+", name)], on_message=self._on_frame)

    def start(self) -> None:
        """Connect, and listen before anything is decided (rule 23)."""
        self.session.start()
        self.link.start()
        self._beat()

    @property
    def holds(self) -> int:
        """Actions that wait for the store."""
        return len(self._held)

    def connections(self) -> list[Any]:
        """All that are open."""
        return [one.connection for one in (self.session, self.link) if one.connection is not None]

    def crash(self) -> None:
        """SIGKILL."""
        for connection in self.connections():
            connection.abort()
        self.process.die()

    # -- what it hears -------------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return self.process.clock.now

    def _beat(self) -> None:
        self.process.after(self.cluster.members.beat_interval, self._beat)
        self._send_beat()
        self._start_when_due()
        self._probe()
        if not self.session.up:
            # Else time passes with its own beat, which comes back.
            self._carry_out(self.cluster.tick(self._now))

    def _send_beat(self) -> None:
        if self.session.up:
            self._beats += 1
            beat = Beat(self.instance, self._beats, self.cluster.term if self.cluster.started else 0)
            self.session.publish(self._topics.coordinator_marker, self._wire.pack(beat), qos=0)

    def _on_message(self, topic: str, payload: Any, retained: bool) -> None:
        if self._inbox.is_own_beat(topic, payload) and self._heard_back is None:
            self._heard_back = self._now
        try:
            self._carry_out(self._inbox.read(self._now, topic, payload, retained))
            if self.cluster.wants_tick and not self._ticks:
                self._ticks = True
                self.process.after(_TICK_AFTER, self._tick)
        except CoordinatorError as error:
            self.error = error
            self.session.stop()
            self.link.stop()
            self.process.die()

    def _tick(self) -> None:
        """One tick for all events that have come (coordinator/service.py)."""
        self._ticks = False
        self._carry_out(self.cluster.tick(self._now))

    def _on_down(self) -> None:
        self.cluster.on_disconnected()
        if not self.cluster.started:
            self._heard_back = None

    def _start_when_due(self) -> None:
        cluster = self.cluster
        if cluster.started or self._heard_back is None or self._now - self._heard_back < cluster.members.deadline:
            return
        kept = self._inbox.retained
        retained = kept if self._wire.json else {topic: encode(document) for topic, document in kept.items()}
        for record in adopt_running(self._topics, retained, self._now):
            if record.name not in cluster.records:
                cluster.adopt(record)
        for found in assignments_seen(self._topics, retained):
            cluster.found_assignment(found)
        self._carry_out(cluster.start(self._now))
        self.session.own(self._topics.coordinator, self._wire.pack(self._state("ready")))
        for topic in kept:
            self._carry_out(cluster.on_foreign(self._now, topic))
        self._inbox.forget_retained()

    # -- what it does --------------------------------------------------------------------------------------

    def _carry_out(self, actions: Iterable[Action]) -> None:
        """In order; while the store cannot be written, hold them back (rule 24)."""
        self._held += actions
        if self._now < self._hold_until:
            return
        while self._held and self.process.alive:
            action = self._held[0]
            if isinstance(action, Persist) and self.disk.full:
                self._hold_until = self._now + 1.0
                return
            self._held.pop(0)
            self._on_action(self, action)
            self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case Persist():
                self.disk.save(self.cluster)
            case Publish(topic, document):
                self.session.own(topic, self._wire.pack(document))
            case Clear(topic):
                self.session.disown(topic)
            case Listen():
                self._send_beat()
            case Respond(client, response):
                self.session.publish(self._topics.response(client), self._wire.pack(response))
            case MakePlan():
                if self._ahead is not None:
                    job, self._ahead = self._ahead, None
                    self._soon(0.0, self.cluster.on_unforeseen, job, Unmade.GIVEN_UP)
                self.process.after(0.05 + 0.4 * self._draw.random(), self._planned, action)
            case PlanAhead(_, wanted):
                self._ahead = wanted.job
                self.process.after(0.05 + 0.2 * self._draw.random(), self._foreseen, wanted)
            case Probe():
                self._probing[action.pipeline, action.revision] = _Probing(
                    action, left=list(range(action.route.turns))
                )
                self._probe()
            case StopProbe(pipeline, revision):
                self._probing.pop((pipeline, revision), None)

    def _planned(self, job: MakePlan) -> None:
        try:
            made = plan(job.intent, job.nodes, job.avoid)
        except SliceMQError as error:
            self._carry_out(self.cluster.on_plan_failed(self._now, job.job, error))
        else:
            self._carry_out(self.cluster.on_planned(self._now, job.job, made))

    def _foreseen(self, job: MakePlan) -> None:
        if self._ahead != job.job:
            return
        self._ahead = None
        try:
            made = plan(job.intent, job.nodes, job.avoid)
        except SliceMQError:
            self._carry_out(self.cluster.on_unforeseen(self._now, job.job, Unmade.NONE))
        else:
            self._carry_out(self.cluster.on_foreseen(self._now, job.job, made))

    def _soon(self, delay: float, event: Callable[..., list[Action]], *values: Any) -> None:
        self.process.after(delay, lambda: self._carry_out(event(self._now, *values)))

    def _state(self, word: Any) -> CoordinatorState:
        stamp = self.cluster.stamp() if word != "lost" else Stamp(0, self.instance, 0)
        return CoordinatorState(word, stamp, self.process.clock.wall, "0")

    # -- its probes ----------------------------------------------------------------------------------------

    def _probe(self) -> None:
        for running in self._probing.values():
            if self._now < running.next_at:
                continue
            running.next_at = self._now + running.wait
            running.wait = min(2 * running.wait, _LONGEST_WAIT)
            for turn in running.left[:PROBES_AT_ONCE]:
                self._send_probe(running.probe, turn)

    def _send_probe(self, probe: Probe, turn: int) -> None:
        route = probe.route
        self._sequence += 1
        self._sequence += (turn - self._sequence) % route.turns
        header = FrameHeader(self._name, self._stream, self._sequence, 0.0, probe.revision, probe=True)
        for bundle in route.lane(header.sequence).entry:
            topic = self._topics.data(probe.pipeline, probe.revision, bundle.id, route.turn(header.sequence))
            tensors = {spec.index: Value("probe") for spec in bundle.tensors}
            self.link.publish(topic, (header, tensors), qos=0)

    def _on_frame(self, topic: str, frame: Any, _retained: bool) -> None:
        header, tensors = frame
        name = self._topics.parts(topic)[1]
        running = self._probing.get((name, header.revision))
        if running is None or header.stream != self._stream:
            return
        turn = header.sequence % running.probe.route.turns
        if turn not in running.left or header.parts != running.probe.route.lane(turn).parts:
            return
        parts = running.parts.setdefault(header.sequence, {})
        parts[header.part] = tensors
        if len(parts) < header.parts:
            return
        running.left.remove(turn)
        record = self.cluster.records.get(name)
        revision = record.revisions.get(header.revision) if record is not None else None
        if revision is not None and by_file(revision.intent.model.sha256).flaw == "golden":
            self._carry_out(self.cluster.on_probe_failed(self._now, name, header.revision, _DIFFERS))
            return
        self._on_probed(name, header.revision, {k: v.what for part in parts.values() for k, v in part.items()})
        if not running.left:
            self._carry_out(self.cluster.on_probed(self._now, name, header.revision))
