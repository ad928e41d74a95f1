"""One run of a scenario: its faults, its end, what is found. PURE but for its seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from simulator.checks import BrokenError, Invariant
from simulator.injection import Injection
from simulator.scenarios import Scenario
from simulator.settled import unsettled
from simulator.world import FIRST_FRAME, SPAN, World

PATIENCE = 240.0
"""Seconds after the last fault within which every frame must have ended and the cluster be at rest."""
_LOOK = 0.5
_JSON_EVERY = 50
"""One seed of so many sends its documents as JSON."""


@dataclass(frozen=True)
class Result:
    """How a run went. `settled`: seconds from the last fault to rest; `broken` names an invariant."""

    scenario: str
    seed: int
    nodes: int
    frames: int
    answered: int
    failed: dict[str, int]
    faults: dict[str, int]
    revisions: int
    seconds: float
    settled: float
    broken: str = ""
    how: str = ""
    extra: dict[str, int] = field(default_factory=dict)


def play(
    scenario: Scenario,
    seed: int,
    say: Callable[[float, str], None] | None = None,
    *,
    json: bool | None = None,
) -> Result:
    """Run `scenario` with `seed`. `json`: documents travel as JSON (None: with some seeds)."""
    world = World(scenario, seed, json=seed % _JSON_EVERY == 0 if json is None else json, say=say)
    broken = how = ""
    try:
        Injection(world)
        world.clock.run(FIRST_FRAME + SPAN)
        _rest(world)
    except BrokenError as error:
        broken, how = error.invariant.name, error.how
    except Exception as error:  # noqa: BLE001 - whatever a core raises is a finding
        broken, how = Invariant.SOUND.name, f"{type(error).__name__}: {error}"
    if broken:
        world.say(f"BROKEN {broken}: {how}")
    return Result(
        scenario.name,
        seed,
        len(world.boards),
        sum(client.total for client in world.clients),
        world.checks.answered,
        dict(sorted(world.checks.failed.items())),
        dict(sorted(world.counts.items())),
        len(world.checks.numbers),
        round(world.clock.now, 3),
        round(max(0.0, world.clock.now - world.healed_at), 3),
        broken,
        how,
    )


def _rest(world: World) -> None:
    """Let time pass until all is at rest."""
    while True:
        left = unsettled(world)
        if not left and world.clock.now >= world.healed_at:
            return
        if world.clock.now > world.healed_at + PATIENCE:
            answered = all(client.done for client in world.clients)
            raise BrokenError(Invariant.SETTLED if answered else Invariant.ANSWERED, left)
        world.clock.run(max(world.clock.now, world.healed_at) + _LOOK)
