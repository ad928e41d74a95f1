"""What may go wrong in a simulated cluster: the stated list. PURE."""

from __future__ import annotations

import enum


class Fault(enum.Enum):
    """A kind of fault; its value is its name in reports. `MEANS` says what each one does."""

    NODE_CRASH = "node-crash"
    NODE_POWER = "node-power"
    NODE_PAUSE = "node-pause"
    NODE_CUT = "node-cut"
    NODE_PARTITION = "node-partition"
    NODE_SLOW = "node-slow"
    NODE_TWIN = "node-twin"
    WORKER_CRASH = "worker-crash"
    FRAME_CRASH = "frame-crash"
    FRAME_POISON = "frame-poison"
    FETCH_FAILS = "fetch-fails"
    COORDINATOR_CRASH = "coordinator-crash"
    COORDINATOR_PAUSE = "coordinator-pause"
    COORDINATOR_CUT = "coordinator-cut"
    COORDINATOR_PARTITION = "coordinator-partition"
    DISK_FULL = "disk-full"
    CLIENT_CUT = "client-cut"
    CLIENT_PARTITION = "client-partition"
    BROKER_RESTART = "broker-restart"
    BROKER_ENDS = "broker-ends"
    BROKER_FORGETS = "broker-forgets"
    BROKER_STALE = "broker-stale"
    SUBSCRIPTIONS_LOST = "subscriptions-lost"
    DUPLICATE = "duplicate"
    DELAY = "delay"
    LATE_WILL = "late-will"
    STALE_PUBLISH = "stale-publish"
    CLOCK_JUMP = "clock-jump"


MEANS: dict[Fault, str] = {
    Fault.NODE_CRASH: "a node's agent is killed, its workers die with it, the broker publishes its will",
    Fault.NODE_POWER: "a board loses its power: nobody ends its connections",
    Fault.NODE_PAUSE: "a node and its workers are stopped (SIGSTOP) for a while",
    Fault.NODE_CUT: "a node's connections end: what was on its way is lost, wills come",
    Fault.NODE_PARTITION: "a node cannot reach the broker for a while; it lives",
    Fault.NODE_SLOW: "a node computes up to 30 times more slowly for a while",
    Fault.NODE_TWIN: "a second node is started under an id that is in use",
    Fault.WORKER_CRASH: "a worker's process dies (SIGKILL, as by the memory cgroup)",
    Fault.FRAME_CRASH: "a frame kills the worker that computes it, once",
    Fault.FRAME_POISON: "a frame kills each worker that computes it",
    Fault.FETCH_FAILS: "a node cannot store the next files that it fetches",
    Fault.COORDINATOR_CRASH: "the coordinator is killed and started again from its store",
    Fault.COORDINATOR_PAUSE: "the coordinator is stopped (SIGSTOP) for a while",
    Fault.COORDINATOR_CUT: "the coordinator's connections end",
    Fault.COORDINATOR_PARTITION: "the coordinator cannot reach the broker for a while",
    Fault.DISK_FULL: "the coordinator's store cannot be written for a while",
    Fault.CLIENT_CUT: "a connection of a client ends, or both do",
    Fault.CLIENT_PARTITION: "a client cannot reach the broker for a while",
    Fault.BROKER_RESTART: "the broker is killed and comes back with all that it had retained",
    Fault.BROKER_ENDS: "the broker ends in order: all wills are published and kept, then it comes back with them",
    Fault.BROKER_FORGETS: "the broker is killed and comes back with nothing",
    Fault.BROKER_STALE: "the broker is killed and comes back with earlier documents and cleared topics",
    Fault.SUBSCRIPTIONS_LOST: "for some seconds half of all SUBSCRIBE packets are lost, as amqtt does in a burst",
    Fault.DUPLICATE: "the messages of QoS 1 of a connection's last 2 s come again, both ways",
    Fault.DELAY: "messages of a connection take up to 0.5 s for a while",
    Fault.LATE_WILL: "a will comes late: of a node's life that is over, or of a connection that was replaced",
    Fault.STALE_PUBLISH: "a document that was retained before is written again",
    Fault.CLOCK_JUMP: "the wall clock of all machines jumps by up to a day",
}
