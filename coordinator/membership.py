"""Who is alive (protocol rules 16, 19 and 20). PURE: documents and times in, answers out.

Silence is counted on a clock of its own, the listening clock: it advances only by the coordinator's own
beats that come back through the broker, and by at most two beat intervals for each. So while the coordinator is
stopped or cut off, or the broker hangs, no silence is counted against anybody.

A will counts when an own beat comes back after it. A broker that ends in order publishes the wills of all its
sessions, also to those that it has not cut off yet, and may keep them: when it is back, they are retained documents
of nodes that live. So wills say nothing while the coordinator is cut off, nor of a node not heard since then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from slicemq.errors import ProtocolError
from slicemq.messages import Capacity, Heartbeat, NodeState, Report, SliceBeat

BEAT_INTERVAL = 0.25
HEARTBEAT_DEADLINE = 1.5
# A data link that is down longer than its own reconnect back-off needs makes its slice not ready.
LINK_GRACE = 6.0
SHUN_SECONDS = 30.0
# A node that is lost again and again is left out of new plans too, for twice as long after each further loss.
FLAPS = 3
FLAP_SECONDS = 300.0
MOST_SHUN_SECONDS = 960.0
# Against whoever invents nodes: ten times what a coordinator is meant for.
MAX_NODES = 10_000
# Sessions come back within 5 s (their longest back-off) after a broker was away.
RECONNECT_GRACE = 5.0

SliceKey = tuple[str, str, str]
"""(pipeline, revision, slice)"""


@dataclass
class _Progress:
    """When a slice was last heard of, last ended a frame or had none waiting, and since when its link is down."""

    ended: int | None = None
    heard: float = 0.0
    moved: float = 0.0
    link_down: float | None = None


@dataclass
class Node:
    """All that is known of one node. `epoch` is the life that counts now; None while none is known alive."""

    id: str
    epoch: str | None = None
    heard: float = 0.0
    last_epoch: str | None = None
    states: dict[str, NodeState] = field(default_factory=dict)
    capacity: Capacity | None = None
    report: Report | None = None
    beat: Heartbeat | None = None
    shunned_until: float = -1.0
    broker_shunned_until: float = -1.0
    losses: list[float] = field(default_factory=list)
    progress: dict[SliceKey, _Progress] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether a life of this node is known to be running."""
        return self.epoch is not None

    @property
    def usable(self) -> bool:
        """Whether slices may be placed here: alive, ready, and its capacity is of this life."""
        return self.epoch is not None and self.state == "ready" and self.current_capacity is not None

    @property
    def state(self) -> str:
        """The node's own word for its state; `lost` once it is not alive."""
        if self.epoch is None:
            last = self.states.get(self.last_epoch or "")
            return "disconnected" if last is not None and last.state == "disconnected" else "lost"
        document = self.states.get(self.epoch)
        return document.state if document is not None else "init"

    @property
    def current_capacity(self) -> Capacity | None:
        """The capacity document, if it is of the life that counts."""
        return self.capacity if self.capacity is not None and self.capacity.epoch == self.epoch else None

    @property
    def current_report(self) -> Report | None:
        """The report, if it is of the life that counts."""
        return self.report if self.report is not None and self.report.epoch == self.epoch else None


@dataclass
class Membership:
    """The nodes of the cluster, and the listening clock. Each event returns the ids of nodes just lost."""

    deadline: float = HEARTBEAT_DEADLINE
    beat_interval: float = BEAT_INTERVAL
    nodes: dict[str, Node] = field(default_factory=dict)
    clock: float = 0.0
    _last_beat: float | None = None
    _was_cut_off: bool = False
    _willed: set[str] = field(default_factory=set)

    def node(self, name: str) -> Node:
        """The node called `name`, made when it is new. Raises ProtocolError when there are too many."""
        node = self.nodes.get(name)
        if node is None:
            if len(self.nodes) >= MAX_NODES:
                raise ProtocolError(f"node {name}: the cluster has {MAX_NODES} nodes already")
            node = self.nodes[name] = Node(name)
        return node

    def on_own_beat(self, now: float) -> list[str]:
        """One of the coordinator's own beats came back: advance the listening clock, count silence."""
        if self._last_beat is not None:
            self.clock += min(max(0.0, now - self._last_beat), 2 * self.beat_interval)
        self._last_beat = now
        if self._was_cut_off:
            self._was_cut_off = False
            for node in self.nodes.values():
                node.heard = self.clock + RECONNECT_GRACE
        dead = {
            n.id for n in self.nodes.values() if n.alive and self.clock - n.heard > self.deadline
        } | self._willed
        for name in dead:
            self._end(self.nodes[name])
            self._note_loss(self.nodes[name])
        return sorted(dead)

    @property
    def waits_for_beat(self) -> bool:
        """Whether a will has come that counts with the next own beat."""
        return bool(self._willed)

    def on_disconnected(self) -> None:
        """The coordinator lost its connection: what it does not hear says nothing.

        The nodes may have lost theirs with it (the broker was restarted): they get time to come back.
        """
        self._last_beat = None
        self._was_cut_off = True
        self._willed.clear()

    def on_state(self, document: NodeState) -> list[str]:
        """A node's state, or its will. A will of another life than the current one is ignored (rule 16).

        A will of the current one ends it with the next own beat.
        """
        node = self.node(document.node)
        node.states[document.epoch] = document
        for epoch in [e for e in node.states if e not in (node.epoch, node.last_epoch, document.epoch)]:
            del node.states[epoch]
        if document.epoch != node.epoch:
            return []
        self._willed.discard(node.id)
        if document.state == "disconnected":
            self._end(node)
            return [node.id]
        if document.state == "lost" and not self._was_cut_off and node.heard <= self.clock:
            self._willed.add(node.id)
        return []

    def on_capacity(self, document: Capacity) -> None:
        """A node's capacity; it counts once a heartbeat of the same life is heard."""
        self.node(document.node).capacity = document

    def on_report(self, document: Report) -> None:
        """A node's report; it counts once a heartbeat of the same life is heard."""
        self.node(document.node).report = document

    def on_heartbeat(self, beat: Heartbeat) -> bool:
        """A heartbeat: the newest decides which life counts. Returns whether a life has just begun.

        While the current life is still heard, another one's heartbeats are a second node under the same id
        (which stops by itself when it hears the first): they are not counted. After the coordinator was cut off the
        life that is heard first counts.
        """
        node = self.node(beat.node)
        ended = node.states.get(beat.epoch)
        if ended is not None and ended.state in ("lost", "disconnected") and beat.epoch != node.epoch:
            # A straggler of a life that has said its end; a live one publishes its state again (rule 17).
            return False
        if node.epoch is not None and node.epoch != beat.epoch:
            if self._was_cut_off or node.heard <= self.clock:
                return False
            # It began while nothing could be heard of the end of the one before, of which nothing was heard since.
            self._end(node)
        begins = node.epoch is None
        node.epoch = node.last_epoch = beat.epoch
        node.heard = self.clock
        node.beat = beat
        # A slice whose worker starts again is not in the heartbeats meanwhile, and does not count as hanging.
        loaded = {(entry.pipeline, entry.revision, entry.slice) for entry in beat.slices}
        node.progress = {key: value for key, value in node.progress.items() if key in loaded and not begins}
        for entry in beat.slices:
            self._note_progress(node, entry)
        return begins

    def shun(self, name: str) -> None:
        """Leave a node out of new plans for a while, if the others suffice."""
        self.node(name).shunned_until = self.clock + SHUN_SECONDS

    def is_shunned(self, name: str) -> bool:
        """Whether new plans should do without this node."""
        return self.node(name).shunned_until > self.clock

    def shun_broker(self, name: str) -> None:
        """Leave a node's data broker out of new plans for a while."""
        self.node(name).broker_shunned_until = self.clock + SHUN_SECONDS

    def is_broker_shunned(self, name: str) -> bool:
        """Whether new plans should not use the data broker of this node."""
        return self.node(name).broker_shunned_until > self.clock

    def link_is_down(self, name: str, key: SliceKey) -> bool:
        """Whether a slice has said for too long that one of its data links is down (rule 19)."""
        node = self.nodes.get(name)
        progress = node.progress.get(key) if node is not None else None
        return _link_was_lost(progress) if progress is not None else False

    def is_cut_off(self, name: str, key: SliceKey) -> bool:
        """Whether frames for a slice may be lost now: a link of its is down, or nothing is known of it."""
        node = self.nodes.get(name)
        if node is None or self._was_cut_off or node.heard > self.clock:
            return True
        progress = node.progress.get(key)
        return progress is not None and progress.link_down is not None

    def stuck(self, name: str, key: SliceKey, stage_seconds: float) -> str | None:
        """Why a slice that reports ready does not work (rule 19), or None."""
        node = self.nodes.get(name)
        progress = node.progress.get(key) if node is not None else None
        if progress is None:
            return None
        if progress.link_down is not None and _link_was_lost(progress):
            return f"its data link is down for {progress.heard - progress.link_down:.1f} s"
        limit = max(self.deadline, 10 * stage_seconds)
        if progress.heard - progress.moved > limit:
            return f"a frame waits for {progress.heard - progress.moved:.1f} s and none is finished"
        return None

    def _note_progress(self, node: Node, entry: SliceBeat) -> None:
        progress = node.progress.setdefault((entry.pipeline, entry.revision, entry.slice), _Progress())
        progress.heard = self.clock
        ended = entry.frames + entry.errors
        if ended != progress.ended or entry.waiting <= 0:
            progress.ended = ended
            progress.moved = self.clock
        if entry.link == "up":
            progress.link_down = None
        elif progress.link_down is None:
            progress.link_down = self.clock

    def _note_loss(self, node: Node) -> None:
        """Shun a node that comes and goes: `FLAPS` losses, each within `FLAP_SECONDS` of the one before."""
        if node.losses and self.clock - node.losses[-1] > FLAP_SECONDS + max(0.0, node.shunned_until - self.clock):
            node.losses.clear()
        node.losses = [*node.losses[-31:], self.clock]
        if len(node.losses) >= FLAPS:
            pause = min(MOST_SHUN_SECONDS, SHUN_SECONDS * 2.0 ** (len(node.losses) - FLAPS))
            node.shunned_until = max(node.shunned_until, self.clock + pause)

    def _end(self, node: Node) -> None:
        node.epoch = None
        node.progress.clear()
        self._willed.discard(node.id)


def _link_was_lost(progress: _Progress) -> bool:
    return progress.link_down is not None and progress.heard - progress.link_down > LINK_GRACE
