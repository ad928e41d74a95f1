"""Energy by a stated model: nobody measures a watt here. PURE.

    joules = idle_watts x seconds + (busy_watts - idle_watts) x cpu_seconds / share + joules_per_mb x MB moved

A board that uses the whole of its share of processor draws `busy_watts`, one that does nothing `idle_watts`, and in
between it is linear in the processor time. DEFER (arXiv 2201.06769) publishes energy per node as a percentage of
one device's; its constants are not known, so ours stand in the scenario. `share` is what the emulated board has of
this machine's processors, so cpu_seconds / share are the seconds in which the board was busy.

The defaults are those of a Raspberry Pi 4 without peripherals, 2.7 W idle and 6.4 W with four busy cores (commonly
measured values). `joules_per_mb` is assumed: 0.01 J for a wired port; the processor time of moving bytes is in
cpu_seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator import units
from emulator.tables import value

_MOST = 1e4


@dataclass(frozen=True)
class EnergyModel:
    """`[nodes.energy]`: watts of the whole board, joules for each MB (10^6 bytes) in or out."""

    idle_watts: float = value(units.number(0.0, _MOST), 2.7)
    busy_watts: float = value(units.number(0.0, _MOST), 6.4)
    joules_per_mb: float = value(units.number(0.0, _MOST), 0.01)


@dataclass(frozen=True)
class Energy:
    """Joules of one board over one measurement."""

    idle: float
    busy: float
    moved: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.idle + self.busy + self.moved


def spent(model: EnergyModel, *, seconds: float, cpu_seconds: float, share: float, moved: float) -> Energy:
    """Joules of a board that used `cpu_seconds` of its `share` of processors and moved so many bytes."""
    return Energy(
        idle=model.idle_watts * seconds,
        busy=(model.busy_watts - model.idle_watts) * cpu_seconds / share,
        moved=model.joules_per_mb * moved / 1e6,
    )
