"""Whether a simulated cluster is at rest, with what was asked for. PURE."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.node import Node
from simulator.world import TOPICS, World
from slicemq.messages import Assignment, NodeState


def unsettled(world: World) -> str:
    """What is not as it must be some time after the last fault; the empty text when all is."""
    return next(_faults(world), "")


def _faults(world: World) -> Iterator[str]:
    for client in world.clients:
        if not client.done:
            yield f"{client.name}: {client.ledger.unanswered} of {len(client.payloads)} frames are unanswered"
    if not world.operator.idle:
        yield "a request is not answered"
    one = world.coordinator
    if one is None or not one.process.alive or not one.cluster.started:
        yield "the coordinator does not coordinate"
        return
    if one.holds:
        yield f"the coordinator holds {one.holds} actions back"
    for record in one.cluster.records.values():
        wanted = world.wanted.get(record.name)
        if wanted is None:
            if record.revisions:
                yield f"{record.name} was undeployed and has revisions"
            continue
        active = record.active
        if active is None or list(record.revisions) != [active.id]:
            phases = ", ".join(f"{revision.id} {revision.phase}" for revision in record.revisions.values())
            yield f"{record.name}: {phases or 'no revision'}; {record.status}"
        elif record.job is not None or (record.wish is not None and not record.needs_nodes):
            yield f"{record.name}: a plan is being made"
        elif record.wish is not None:
            # There is no room for it, and its intent is kept until there is.
            continue
        elif active.intent.model != wanted.model and (record.name, wanted.model.sha256) not in world.given_up:
            yield f"{record.name}: an older model runs than was asked for; {record.status}"
    yield from _documents(world)
    for board in world.boards:
        if board.name not in world.dead:
            yield from _node(world, world.nodes[board.name])


def _documents(world: World) -> Iterator[str]:
    """Retained documents are those of their owners, and no others."""
    one = world.coordinator
    assert one is not None
    wanted = {TOPICS.coordinator, *one.cluster.published}
    for board in world.boards:
        if board.name not in world.dead:
            wanted |= {TOPICS.node(board.name, leaf) for leaf in ("state", "capacity", "report")}
    kept = world.broker.retained.keys()
    left = {TOPICS.node(name, leaf) for name in world.dead for leaf in ("state", "capacity", "report")}
    for topic in sorted(wanted - kept):
        yield f"{topic} is not retained"
    for topic in sorted(kept - wanted - left):
        yield f"{topic} is retained and nobody's"


def _node(world: World, node: Node) -> Iterator[str]:
    name = node.board.name
    if not node.process.alive or node.agent is None or not node.session.up:
        yield f"{name} has not joined"
        return
    state = world.broker.retained.get(TOPICS.node(name, "state"))
    if state is not None:
        document = world.wire.unpack(NodeState, state, "state")
        if (document.epoch, document.state) != (node.epoch, "ready"):
            yield f"{name}: its state is {document.state}"
    told = world.broker.retained.get(TOPICS.node(name, "assignment"))
    assigned = world.wire.unpack(Assignment, told, "assignment").slices if told is not None else ()
    wanted = sorted((item.pipeline, item.revision, item.slice) for item in assigned)
    running = sorted(
        (w.assignment.pipeline, w.assignment.revision, w.assignment.slice) for w in node.workers.values()
    )
    if wanted != running:
        yield f"{name}: runs {running}, is assigned {wanted}"
    for worker in node.workers.values():
        if not worker.link.up:
            yield f"{name}: a worker has no connection"
