"""What the parts of the coordinator's core share: all that is known, and the actions that came up. PURE."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.actions import Action, Persist
from coordinator.contingency import Contingencies
from coordinator.intents import PipelineRecord
from coordinator.membership import Membership
from coordinator.poison import Poison
from coordinator.preship import Preship
from coordinator.rebalance import Rebalance
from coordinator.settings import Settings
from coordinator.situation import Situation
from coordinator.upkeep import no_pipeline
from slicemq.errors import PipelineError
from slicemq.topics import Topics


class State:
    """The facts, what was learnt, and the actions since the last `take`.

    `changed`: documents may differ from what is published. `unix_offset`: seconds that the times of rollouts have
    on top of the caller's clock.
    """

    def __init__(
        self,
        topics: Topics,
        records: Iterable[PipelineRecord],
        settings: Settings,
        members: Membership,
        unix_offset: float,
    ) -> None:
        self.topics = topics
        self.settings = settings
        self.members = members
        self.records = {record.name: record for record in records}
        self.situation = Situation(self.records, members)
        self.contingencies = Contingencies()
        self.rebalance = Rebalance()
        self.preship = Preship()
        self.poison = Poison()
        self.changed = True
        self.actions: list[Action] = []
        self.last: list[Action] = []
        self._unix_offset = unix_offset
        self._jobs = 0

    def unix(self, now: float) -> float:
        """The Unix time at `now` on the caller's clock, in seconds."""
        return now + self._unix_offset

    def next_job(self) -> int:
        """The number of a planning that begins."""
        self._jobs += 1
        return self._jobs

    def decided(self) -> None:
        """Something was decided: stored before it is published (rule 24)."""
        self.changed = True
        self.actions.append(Persist())

    def nodes_changed(self) -> None:
        """Other nodes, or more memory: what found no place is looked at again."""
        self.changed = True
        self.look_again()

    def look_again(self) -> None:
        """What found no place may find one."""
        for record in self.records.values():
            record.look_again()

    def running(self, name: str) -> PipelineRecord:
        """The pipeline that runs, or shall run. Raises PipelineError."""
        record = self.records.get(name)
        if record is None or record.removed_at is not None:
            raise PipelineError(no_pipeline(self.records, name))
        return record

    def forget(self, record: PipelineRecord, now: float) -> None:
        """Keep nothing of a pipeline but the number that its next revision must exceed (rule 1)."""
        del self.records[record.name]
        if record.highest > 0:
            left = PipelineRecord(record.name, highest=record.highest, resend=record.resend, removed_at=now)
            self.records[record.name] = left

    def take(self) -> list[Action]:
        """The actions so far, with one Persist in front of all if any asks for it, and those of `last` behind."""
        actions = [*self.actions, *self.last]
        self.actions, self.last = [], []
        rest: list[Action] = [action for action in actions if not isinstance(action, Persist)]
        return [Persist(), *rest] if len(rest) < len(actions) else rest
