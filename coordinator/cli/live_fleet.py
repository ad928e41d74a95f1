"""The nodes of a running cluster as a planner sees them, read from their retained documents."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from coordinator.cli.common import Network
from slicemq.errors import InsufficientCapacityError, ProtocolError

if TYPE_CHECKING:
    from coordinator.planner.model import Fleet
    from slicemq.messages import Capacity

logger = logging.getLogger("slicemq.plan")
_CONNECT_SECONDS = 5.0


def live_fleet(net: Network) -> Fleet:
    """The ready nodes, without the memory, computing time and link rates that the running pipelines take."""
    from coordinator.cli.measured import cache
    from coordinator.cli.tools import reference_speeds
    from coordinator.planner.fleet import fleet_from_capacities
    from coordinator.planner.tables.sharing import shared, together, usage_of_plan
    from slicemq.messages import Assignment, Capacity, NodeState, PipelineDocument, PlanDocument, decode
    from slicemq.session import Session

    session = Session(net.options, f"cli-{secrets.token_hex(4)}")
    try:
        session.start()
        session.wait_up(_CONNECT_SECONDS)
        leaves = (net.topics.node("+", leaf) for leaf in ("state", "capacity", "assignment"))
        documents = session.snapshot(*leaves, net.topics.pipeline("+"), net.topics.plan("+"))
    finally:
        session.stop()
    states: dict[str, NodeState] = {}
    capacities: dict[str, Capacity] = {}
    assignments: dict[str, Assignment] = {}
    running: set[str] = set()
    plans: dict[str, PlanDocument] = {}
    for topic, payload in sorted(documents.items()):
        node, leaf = (*net.topics.parts(topic)[1:], "pipeline")[:2]
        try:
            if leaf == "pipeline":
                document = decode(PipelineDocument, payload, topic)
                running |= {document.name} if document.state == "running" else set()
            elif leaf == "plan":
                plan = decode(PlanDocument, payload, topic)
                plans[plan.name] = plan
            elif leaf == "state":
                states[node] = decode(NodeState, payload, topic)
            elif leaf == "capacity":
                capacities[node] = decode(Capacity, payload, topic)
            else:
                assignments[node] = decode(Assignment, payload, topic)
        except ProtocolError as error:
            logger.warning("%s", error)
    ready = [
        free(capacity, assignments.get(node))
        for node, capacity in sorted(capacities.items())
        if node in states and states[node].state == "ready" and states[node].epoch == capacity.epoch
    ]
    if not ready:
        raise InsufficientCapacityError(
            f"no node is ready in cluster {net.cluster} at {net.options.describe()}: start some with "
            "'slicemq node run', or give --fleet"
        )
    if not all(capacity.knows_data_brokers for capacity in ready):
        ready = [replace(capacity, broker="") for capacity in ready]
    usage = together(usage_of_plan(plan.plan) for name, plan in plans.items() if name in running)
    return shared(fleet_from_capacities(ready, reference_speeds(cache())), usage)


def free(capacity: Capacity, assignment: Any) -> Capacity:
    """A node without the memory of the slices assigned to it (None: there are none) and of their workers."""
    taken = sum(item.memory + capacity.worker_memory for item in assignment.slices) if assignment else 0
    return replace(capacity, memory=max(0, capacity.memory - taken))
