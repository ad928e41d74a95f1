"""Energy of a node for a frame, by the emulator's stated model, beside what DEFER publishes."""

from __future__ import annotations

from benchmarks.chain_runs import Summary
from emulator.energy import EnergyModel, spent

# arXiv 2201.06769, ResNet50 on 8 compute nodes against one device, in per cent.
DEFER = {"throughput": 53.0, "energy": -63.0}
MODEL = EnergyModel()


def joules(row: Summary, share: float) -> float:
    """Joules of one node for one frame, the mean over the nodes of the chain."""
    return spent(MODEL, seconds=1 / row.rate, cpu_seconds=row.cpu_ms / 1e3, share=share, moved=row.bytes).total


def against_one(row: Summary, one: Summary, share: float) -> str:
    """The energy of a node of the chain less that of the single one, in per cent."""
    return f"{100 * (joules(row, share) / joules(one, share) - 1):+.0f} %"


def words() -> str:
    """What the figures are made of, and what DEFER publishes."""
    return (
        f"Energy of a node for a frame by the emulator's model: {MODEL.idle_watts:g} W when idle, "
        f"{MODEL.busy_watts:g} W when its share is used up, linear between, "
        f"and {MODEL.joules_per_mb:g} J for each MB moved. "
        f"Published for DEFER (ResNet50, 8 nodes): throughput {DEFER['throughput']:+.0f} %, energy of a node "
        f"{DEFER['energy']:+.0f} % against one device."
    )
