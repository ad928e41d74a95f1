"""Bundles on data brokers: whether they may be there, and what they change in a plan's figures (PURE).

Such a bundle crosses the network once, so that its way up and its way down count as the longer of the two; the main
broker has nothing of it; and its receiver computes `per_byte` seconds more for each byte, divided by its speed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.plan_check.flows import Exact
from coordinator.plan_check.ledger import Ledger
from coordinator.plan_check.planfile import CLIENT, Bundle, PlanFile
from coordinator.plan_check.report import Check


@dataclass(frozen=True)
class Hop:
    """The bytes of the tensors of one bundle on a data broker; its frame's own bytes are left aside."""

    source: str
    target: str
    size: int


@dataclass(frozen=True)
class Carried:
    """The hops over data brokers, and the bytes that each slice's own node relays."""

    hops: tuple[Hop, ...] = ()
    relays: dict[str, Exact] = field(default_factory=dict)

    def work(self, ledger: Ledger, slice_id: str, kind: int) -> Exact:
        """Seconds that the data broker of a slice's node takes for a frame."""
        size = self.relays.get(slice_id, 0)
        return ledger.kinds[kind].relaying(size) if size else 0


def carried(plan: PlanFile, ledger: Ledger) -> tuple[Carried, list[Check]]:
    """What travels over data brokers, and what is to be said about it (nothing where nothing does)."""
    mine = [bundle for bundle in plan.bundles if bundle.broker]
    if not mine:
        return Carried(), []
    wrong = [f"bundle {bundle.id}: {why}" for bundle in mine if (why := _refusal(plan, ledger, bundle))]
    if wrong:
        return Carried(), [Check("data brokers", "failed", "; ".join(wrong[:5]))]
    hops = tuple(Hop(bundle.source, bundle.targets[0], _payload(ledger, bundle)) for bundle in mine)
    relays: dict[str, Exact] = {}
    for hop in hops:
        relays[hop.target] = relays.get(hop.target, 0) + hop.size
    return Carried(hops, relays), [Check("data brokers", "proved", f"{len(mine)} bundles, each on its receiver's")]


def _refusal(plan: PlanFile, ledger: Ledger, bundle: Bundle) -> str:
    slices = {item.id: item for item in plan.slices}
    if ledger.data_brokers is None or bundle.broker not in ledger.data_brokers:
        return f"the costs file has no data broker of {bundle.broker[:80]}"
    if bundle.source not in slices or len(bundle.targets) != 1 or bundle.targets[0] not in slices:
        return f"only what goes from one slice to one other may be on a data broker, not to {CLIENT} or several"
    if slices[bundle.targets[0]].nodes != (bundle.broker,):
        return f"{bundle.broker} is not the only node of slice {bundle.targets[0]}"
    if not all(t in ledger.sizes for t in bundle.tensors):
        return "its tensors are not those of the costs file"
    return ""


def _payload(ledger: Ledger, bundle: Bundle) -> int:
    coded = ledger.coded.get(bundle.codec, {})
    return sum(coded[t].bytes if t in coded else ledger.sizes[t] for t in set(bundle.tensors))
