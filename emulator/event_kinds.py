"""What events there are, and what each takes. PURE."""

from __future__ import annotations

# What an event does -> the fields that it takes besides `at` and, except for those in WITHOUT_NODE, `node`.
EVENTS: dict[str, frozenset[str]] = {
    "kill": frozenset({"lasts"}),
    "stop": frozenset({"lasts"}),
    "start": frozenset(),
    "freeze": frozenset({"lasts"}),
    "thaw": frozenset(),
    "link-down": frozenset({"lasts"}),
    "link-up": frozenset(),
    "rate": frozenset({"up", "down"}),
    "delay": frozenset({"delay", "jitter"}),
    "cut": frozenset({"lasts", "how"}),
    "cpu": frozenset({"cpu"}),
    "memory": frozenset({"memory"}),
    "broker-restart": frozenset({"lasts"}),
    "coordinator-restart": frozenset({"lasts"}),
    "coordinator-kill": frozenset(),
    "coordinator-start": frozenset(),
    "deploy": frozenset({"pipeline", "model"}),
    "undeploy": frozenset({"pipeline"}),
}
WITHOUT_NODE = frozenset(what for what in EVENTS if what.startswith(("broker", "coordinator"))) | {
    "deploy",
    "undeploy",
}
# These do nothing without a field.
NEEDS = {"delay": "delay", "cpu": "cpu", "memory": "memory", "deploy": "pipeline", "undeploy": "pipeline"}
