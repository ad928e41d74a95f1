"""What idle time is used for: plans that losses would need, and plans to compare what runs with. PURE."""

from __future__ import annotations

from coordinator.actions import PlanAhead
from coordinator.contingency import Unmade
from coordinator.intents import Blueprint, Wish
from coordinator.jobs import Jobs, make_plan
from coordinator.state import State


class Idle:
    """One plan ahead at a time (contingency.py, rebalance.py), and the files that nodes fetch ahead for them."""

    def __init__(self, state: State, jobs: Jobs) -> None:
        self._state = state
        self._jobs = jobs

    def begin(self, now: float) -> None:
        """Begin the next plan ahead, if it is time for one."""
        state = self._state
        contingencies, rebalance = state.contingencies, state.rebalance
        wanted = contingencies.look(now, state.situation) if not rebalance.under_way else None
        if wanted is not None:
            job = state.next_job()
            contingencies.begin(job, wanted)
            state.actions.append(PlanAhead(wanted.lost, make_plan(job, wanted.inputs, None)))
        elif contingencies.idle(now):
            compare = rebalance.look(now, state.situation)
            if compare is not None:
                job = state.next_job()
                rebalance.begin(job, compare)
                state.actions.append(PlanAhead("", make_plan(job, compare.inputs, None)))
        if contingencies.at_rest:
            nodes = state.members.nodes.values()
            capacities = {node.id: one for node in nodes if (one := node.current_capacity) is not None}
            state.changed |= state.preship.plan(contingencies.plans(), state.records, capacities)
        for name, foreseen in contingencies.news(state.situation).items():
            state.changed |= state.records[name].foreseen != foreseen
            state.records[name].foreseen = foreseen

    def made(self, now: float, job: int, blueprint: Blueprint) -> None:
        """A plan is made ahead; if a pipeline is better off with it, it moves."""
        state = self._state
        state.contingencies.made(now, job, blueprint)
        move = state.rebalance.made(now, job, blueprint, state.situation)
        if move is not None:
            record = state.records[move.pipeline]
            assert record.intent is not None
            wish = Wish(record.intent, None, why=move.why)
            self._jobs.prepare(record, wish, record.intent, blueprint, now)

    def unmade(self, now: float, job: int, why: Unmade) -> None:
        """A plan ahead was not made."""
        self._state.contingencies.unmade(now, job, why)
        self._state.rebalance.unmade(job, again=why is Unmade.GIVEN_UP)
