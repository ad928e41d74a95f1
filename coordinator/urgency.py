"""Which planning gives way to another. PURE.

One plan is made at a time, because two that are made from the same free memory would both take it. What nobody
serves does not wait for that: a plan for something that is served, or that never ran, is given up and made again
later. So is a plan that counts on a node which was lost meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from coordinator.intents import PipelineRecord
from coordinator.membership import Membership
from coordinator.situation import Inputs


def make_way(record: PipelineRecord, records: Iterable[PipelineRecord]) -> bool:
    """Whether planning for `record` may begin now; what must give way to it has then given way."""
    busy = [other for other in records if other.job is not None]
    if not busy:
        return True
    if not _is_urgent(record) or any(_is_urgent(other) for other in busy):
        return False
    for other in busy:
        give_up(other)
    return True


def is_outdated(record: PipelineRecord, planned: Inputs, members: Membership) -> bool:
    """Whether the planning under way for a pipeline that nobody serves counts on a node that is lost."""
    gone = [node.node for node in planned.nodes if not members.node(node.node).alive]
    return record.job is not None and record.active is None and bool(gone)


def give_up(record: PipelineRecord) -> None:
    """The planning under way counts for nothing; what it was for is planned again."""
    wish, record.job, record.job_wish = record.job_wish, None, None
    if record.wish is None and wish is not None and not wish.why:
        record.wish = replace(wish, room="")


def _is_urgent(record: PipelineRecord) -> bool:
    return record.active is None and record.face is not None and record.removed_at is None
