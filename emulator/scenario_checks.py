"""Whether the parts of a scenario fit together. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import units
from emulator.event_kinds import EVENTS, NEEDS, WITHOUT_NODE
from slicemq.errors import ConfigError
from slicemq.topics import is_id

if TYPE_CHECKING:
    from emulator.scenario import Event, Scenario


def check(scenario: Scenario, where: str) -> None:
    """Raises ConfigError, which begins with `where`, when parts of the scenario do not fit together."""
    if not scenario.nodes:
        raise ConfigError(f"{where}: expected at least one table [[nodes]]")
    if not scenario.deployments:
        raise ConfigError(f"{where}: expected at least one table [[deployments]]")
    names = [board.name for board in scenario.boards()]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: [[nodes]]: expected different prefixes, two boards are called {name!r}")
    for place, kind in enumerate(scenario.nodes, 1):
        here = f"{where}: [[nodes]] {place}"
        last = f"{kind.prefix or kind.type}{kind.count}"
        if not is_id(last):
            raise units.wrong(f"{here}: field prefix", "names of at most 64 characters", last)
        if kind.energy.busy_watts < kind.energy.idle_watts:
            raise units.wrong(f"{here}: energy.busy_watts", "at least idle_watts", kind.energy.busy_watts)
    for variant in scenario.variants():
        if all(board.kind.joins is not None for board in variant.boards()):
            raise ConfigError(f"{where}: [[nodes]]: expected a board without `joins` in every variant")
    pipelines = [deployment.name for deployment in scenario.deployments]
    if len(set(pipelines)) < len(pipelines):
        raise ConfigError(f"{where}: [[deployments]]: expected different names, got {', '.join(pipelines)}")
    load = scenario.load
    if load.pipeline and load.pipeline not in pipelines:
        raise units.wrong(f"{where}: [load] pipeline", f"one of {', '.join(pipelines)}", load.pipeline)
    if (load.seconds is None) == (load.frames is None):
        raise ConfigError(f"{where}: [load]: expected either seconds or frames")
    if load.seconds == 0:
        raise units.wrong(f"{where}: [load] seconds", "more than 0", load.seconds)
    if load.frames is not None and load.frames < (load.warm or 0) + 2:
        raise units.wrong(
            f"{where}: [load] frames", f"at least 2 more than the {load.warm or 0} of warm", load.frames
        )
    for place, event in enumerate(scenario.events, 1):
        _check_event(event, f"{where}: [[events]] {place}", names, pipelines)
    most = max(scenario.run.sweep.nodes, default=0)
    if most > len(names):
        raise units.wrong(f"{where}: [run.sweep] nodes", f"at most the fleet's {len(names)}", most)


def _check_event(event: Event, where: str, names: list[str], pipelines: list[str]) -> None:
    if event.what == "join":
        raise ConfigError(f"{where}: what: a board joins by the field `joins` of its table [[nodes]]")
    if event.what in WITHOUT_NODE:
        if event.node:
            raise ConfigError(f"{where}: field node: {event.what} takes none")
    elif event.node not in names:
        raise units.wrong(f"{where}: field node", f"a board ({', '.join(names[:8])} ...)", event.node)
    for name in ("lasts", "up", "down", "delay", "jitter", "how", "cpu", "memory", "pipeline", "model"):
        if getattr(event, name) not in (None, "") and name not in EVENTS[event.what]:
            raise ConfigError(f"{where}: field {name}: {event.what} takes none")
    if event.what == "rate" and event.up is None and event.down is None:
        raise ConfigError(f"{where}: expected a field up or down with rate")
    needed = NEEDS.get(event.what)
    if needed is not None and getattr(event, needed) in (None, ""):
        raise ConfigError(f"{where}: expected a field {needed}")
    if event.pipeline and event.pipeline not in pipelines:
        raise units.wrong(f"{where}: field pipeline", f"one of {', '.join(pipelines)}", event.pipeline)
