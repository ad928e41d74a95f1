"""The coordinator's retained documents on the broker: which, with which stamp, and until when. PURE.

What they say is made in documents.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from coordinator.actions import Clear, Publish
from coordinator.documents import all_documents
from coordinator.echoes import Echoes
from coordinator.state import State
from coordinator.upkeep import staying
from slicemq.messages import Assignment, SliceAssignment, Stamp
from slicemq.topics import is_id

MOST_EMPTY = 16
"""How many empty assignments are on their way to nodes that run nothing, until their reports say that they came."""


class Publishing:
    """What stands on the broker from this coordinator.

    `published`: topic -> document without its stamp. `sent`: topic -> stamp, and when it was sent last. `addressed`
    are the nodes that have an assignment, and since when it is an empty one of an absent node (else infinity).
    `earlier` are the assignments that stood there before this coordinator wrote. `waiting`: empty assignments wait
    for others that are on their way.
    """

    def __init__(self, state: State, instance: str, term: int) -> None:
        self._state = state
        self.instance = instance
        self.term = term
        self.published: dict[str, Any] = {}
        self.sent: dict[str, tuple[Stamp, float]] = {}
        self.addressed: dict[str, float] = {}
        self.earlier: dict[str, Assignment] = {}
        self.waiting = False
        self._empty: dict[str, float] = {}
        self._stored_term = term
        # Since its term is another: with that, all documents go out again.
        self._all_again = False
        self._counter = 0
        self._echoes = Echoes()

    def stamp(self) -> Stamp:
        """The next stamp of this coordinator."""
        self._counter += 1
        return Stamp(self.term, self.instance, self._counter)

    def echoed(self, term: int) -> None:
        """A node ignores this coordinator's documents when it saw a higher term (rule 21)."""
        if term <= self.term:
            return
        higher = self._echoes.exceeded(self._state.members.clock, term, self.term)
        if higher is not None:
            self.term = higher
            self._all_again = True
            self._state.decided()

    def found_earlier(self, document: Assignment) -> None:
        """An assignment from before this coordinator; where the store is older, it tells a drained node."""
        self.earlier[document.node] = document
        if document.draining and document.stamp.term > self._stored_term:
            self._state.situation.drained.add(document.node)

    def address(self, nodes: Iterable[str]) -> None:
        """Publish assignments to these nodes from now on."""
        for name in nodes:
            self.addressed[name] = math.inf

    def found(self, topic: str) -> bool:
        """A retained document of the coordinator's kind: one that it does not know is cleared.

        An assignment is ended explicitly first (rule 15): whether documents change by it.
        """
        if topic in self.published:
            return False
        parts = self._state.topics.parts(topic)
        if parts[0] == "nodes" and is_id(parts[1]):
            self.address([parts[1]])
            self._state.changed = True
            return True
        self._state.actions.append(Clear(topic))
        return False

    def forget_node(self, node: str) -> None:
        """Clear all retained documents of a node that is not there; its assignment with the next `flush`."""
        self.addressed.pop(node, None)
        topics = self._state.topics
        self._state.actions += [Clear(topics.node(node, leaf)) for leaf in ("state", "capacity", "report")]

    def flush(self, now: float) -> None:
        """Publish the documents that differ from those that stand, and clear those that are over."""
        state = self._state
        drained = staying(state.records, state.situation.drained)
        self.address((drained.keys() | state.preship.nodes) - self.addressed.keys())
        wanted = all_documents(
            state.topics,
            state.records,
            sorted(self.addressed),
            state.situation.factors,
            drained,
            state.poison,
            state.preship,
        )
        for topic in [topic for topic in self.published if topic not in wanted]:
            del self.published[topic]
            self.sent.pop(topic, None)
            state.actions.append(Clear(topic))
        self.waiting = False
        self._forget_seen(now)
        for topic, document in wanted.items():
            before = self.published.get(topic)
            if before == document and not self._all_again:
                continue
            if isinstance(document, Assignment) and self._says_nothing(document, before):
                # A thousand nodes that join at once must not delay beats, which a broker reads behind these.
                if len(self._empty) >= MOST_EMPTY:
                    self.published.pop(topic, None)
                    self.waiting = True
                    continue
                self._empty[document.node] = now
            if isinstance(document, Assignment) and (before is None or before.slices != document.slices):
                self._told(before, document)
            self.published[topic] = document
            stamped = dataclasses.replace(document, stamp=self.stamp())
            self.sent[topic] = (stamped.stamp, now)
            state.actions.append(Publish(topic, stamped))
        self._all_again = False

    def _told(self, before: Assignment | None, document: Assignment) -> None:
        """A node is told to run other slices: what it still lists of those before takes memory (rule 12)."""
        state, node = self._state, document.node
        known = state.members.nodes.get(node)
        report = known.current_report if known is not None else None
        told = list(before.slices) if before is not None else self._told_earlier(node)
        leftovers = state.situation.leftovers
        leftovers.assigned(state.members.clock, node, told, document.slices, report, first=before is None)
        # Memory may have become free.
        state.look_again()

    def _told_earlier(self, node: str) -> list[SliceAssignment]:
        """What a node was told to run before this coordinator wrote, as far as that is known."""
        earlier = self.earlier.pop(node, None)
        lost = [one for record in self._state.records.values() for one in record.in_phase("lost")]
        return [
            *(item for revision in lost for item in revision.assignments(node)),
            *(earlier.slices if earlier is not None else ()),
        ]

    def _says_nothing(self, document: Assignment, before: Assignment | None) -> bool:
        """Whether an assignment gives nothing to do and takes nothing away, as far as is known."""
        empty = Assignment(document.node, document.stamp, ())
        if document != empty or (before is not None and before != empty):
            return False
        node, earlier = self._state.members.nodes.get(document.node), self.earlier.get(document.node)
        report = node.report if node is not None else None
        return not (report is not None and report.slices) and not (earlier is not None and earlier.slices)

    def _forget_seen(self, now: float) -> None:
        """Empty assignments that were seen, or that take too long, are not on their way any longer."""
        patience = self._state.settings.resend_assignment
        for name, since in list(self._empty.items()):
            if now - since >= patience or not self._is_unseen(name):
                del self._empty[name]

    def _is_unseen(self, name: str) -> bool:
        """Whether the report of a node that lives does not say yet that its assignment came."""
        node = self._state.members.nodes.get(name)
        sent = self.sent.get(self._state.topics.node(name, "assignment"))
        if node is None or not node.alive or sent is None:
            return False
        seen = node.current_report.seen if node.current_report is not None else None
        return seen is None or seen < sent[0]

    def repeat_unseen(self, now: float) -> None:
        """Send an assignment again until the node's report says that it saw it (rule 7)."""
        state = self._state
        self._forget_seen(now)
        for name in self.addressed:
            topic = state.topics.node(name, "assignment")
            document = self.published.get(topic)
            if document is None or not self._is_unseen(name):
                continue
            stamp, when = self.sent[topic]
            if now - when < state.settings.resend_assignment:
                continue
            if self._says_nothing(document, document):
                if len(self._empty) >= MOST_EMPTY:
                    continue
                self._empty[name] = now
            self.sent[topic] = (stamp, now)
            state.actions.append(Publish(topic, dataclasses.replace(document, stamp=stamp)))

    def clear_addresses(self, now: float) -> None:
        """Clear the empty assignments of nodes that have been away for a grace period (rule 15)."""
        state = self._state
        for name, since in list(self.addressed.items()):
            node = state.members.nodes.get(name)
            document = self.published.get(state.topics.node(name, "assignment"))
            told = document is None or document.slices or document.draining
            if (node is not None and node.alive) or told:
                self.addressed[name] = math.inf
            elif since == math.inf:
                self.addressed[name] = now
            elif now - since > state.settings.removed_shown:
                del self.addressed[name]
                state.changed = True
