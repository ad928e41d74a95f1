"""Scenarios: how large a simulated cluster is, what is asked of it, and what may go wrong. PURE."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.faults import Fault

_NODES = (
    Fault.NODE_CRASH,
    Fault.NODE_POWER,
    Fault.NODE_PAUSE,
    Fault.NODE_CUT,
    Fault.NODE_PARTITION,
    Fault.NODE_SLOW,
    Fault.WORKER_CRASH,
    Fault.FRAME_CRASH,
    Fault.FRAME_POISON,
    Fault.FETCH_FAILS,
)
_COORDINATOR = (
    Fault.COORDINATOR_CRASH,
    Fault.COORDINATOR_PAUSE,
    Fault.COORDINATOR_CUT,
    Fault.COORDINATOR_PARTITION,
    Fault.DISK_FULL,
)
_BROKER = (
    Fault.BROKER_RESTART,
    Fault.BROKER_ENDS,
    Fault.BROKER_FORGETS,
    Fault.BROKER_STALE,
    Fault.SUBSCRIPTIONS_LOST,
)
_MESSAGES = (
    Fault.DUPLICATE,
    Fault.DELAY,
    Fault.LATE_WILL,
    Fault.STALE_PUBLISH,
    Fault.CLIENT_CUT,
    Fault.CLIENT_PARTITION,
    Fault.CLOCK_JUMP,
)


@dataclass(frozen=True)
class Scenario:
    """`nodes`, `frames` (of each client) and `faults` are bounds, from which each seed draws.

    `kinds` are the faults that may be drawn. `changes` are what operators ask for meanwhile: `deploy` (another
    version of the model), `reshape` (a model that gives other tensors), `again` (undeploy, and deploy again),
    `rollout` (another version, sound or not, with a canary or a shadow), `steer` (a rollout is paused, promoted or
    rolled back), `drain` (a node is drained, and undrained some seconds later).
    `errors` are the reasons with which frames may end besides an answer.
    """

    name: str
    title: str
    kinds: tuple[Fault, ...]
    nodes: tuple[int, int] = (3, 5)
    frames: tuple[int, int] = (30, 40)
    faults: tuple[int, int] = (5, 8)
    clients: tuple[int, int] = (1, 2)
    pipelines: tuple[int, int] = (1, 1)
    changes: tuple[str, ...] = ()
    most_changes: int = 0
    errors: frozenset[str] = frozenset({"poisoned"})


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("calm", "nothing goes wrong", (), faults=(0, 0)),
        Scenario("failover", "nodes die, hang and come back", _NODES),
        Scenario("coordinator", "the coordinator dies, hangs and comes back", (*_COORDINATOR, Fault.NODE_CRASH)),
        Scenario(
            "broker", "the broker is killed, forgets and remembers what is over", (*_BROKER, Fault.NODE_CRASH)
        ),
        Scenario("messages", "messages are lost, doubled, late and stale", (*_MESSAGES, Fault.NODE_CRASH)),
        Scenario(
            "deploys",
            "models are deployed, replaced and removed while nodes die",
            (*_NODES, *_COORDINATOR),
            changes=("deploy", "reshape", "again", "drain"),
            most_changes=4,
            errors=frozenset({"spec-changed", "removed", "poisoned"}),
        ),
        Scenario(
            "rollouts",
            "sound and flawed versions are rolled out by canary and shadow while nodes die",
            (*_NODES, *_COORDINATOR, *_MESSAGES),
            frames=(45, 60),
            clients=(2, 3),
            changes=("rollout", "rollout", "rollout", "steer", "deploy"),
            most_changes=4,
            errors=frozenset({"slice-error", "poisoned"}),
        ),
        Scenario(
            "chaos",
            "everything, with new versions being deployed meanwhile",
            tuple(Fault),
            pipelines=(1, 2),
            changes=("deploy", "rollout", "drain"),
            most_changes=3,
            errors=frozenset({"slice-error", "poisoned"}),
        ),
    )
}
