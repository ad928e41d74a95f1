"""Making a plan: costs, the planner's answer, and the figures that go with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from converters.memory import slice_memory
from coordinator.planner.answer import Layout, NoPlanError
from coordinator.planner.assemble import assemble, window_of
from coordinator.planner.cost import build_costs, permitted
from coordinator.planner.data_brokers import over_data_brokers
from coordinator.planner.least_loss import least_loss
from coordinator.planner.methods.exact import solve
from coordinator.planner.model import Fleet, Memory, Planner, PlanOptions
from coordinator.planner.plan import Plan
from coordinator.planner.problem import Costs, State
from coordinator.planner.shapes.compare import alone, compare, pipeline_layout
from coordinator.planner.shortage import shortage, wishes_forbid, without_wishes
from coordinator.planner.tables.codec_costs import chosen_states
from coordinator.planner.tables.memory import memory_by_runtime
from coordinator.planner.tables.moves import with_moves
from coordinator.planner.tables.operators import Needs, check_somewhere, supports_of, who_lacks
from coordinator.planner.wider import Answer, better, in_time, may_gain, with_branches, with_reason
from slicemq.errors import InsufficientCapacityError, PlanError

if TYPE_CHECKING:
    from converters.codec_errors import CodecMeasures
    from converters.graph import Graph
    from converters.profile import Profile

__all__ = ["make_plan", "window_of"]


def make_plan(
    graph: Graph,
    profile: Profile,
    fleet: Fleet,
    *,
    memory: Memory = slice_memory,
    options: PlanOptions | None = None,
    needs: Needs | None = None,
    planner: Planner = solve,
    clock: Callable[[], float] = time.perf_counter,
    record: Callable[[Costs], None] = lambda _: None,
    seconds: float = 0.0,
    brief: bool = False,
    measures: CodecMeasures | None = None,
) -> Plan:
    """The best plan of any shape for `graph` on `fleet`, with the figures of the other shapes.

    It cuts between two steps of the model's order, or, where that gains (`wider.py`), between branches and with the
    codecs of the options; it is never worse than the best plan of the first kind.

    Of a stateful model one frame is on its way at a time (protocol rule 6), so a further slice only adds to its
    latency: it is cut into the fewest slices that fit, unless the options name slices or their number.

    `memory` gives a slice's bytes beyond an idle worker, `profile` the operators' seconds on the machine of speed
    1, `needs` what each operator asks of a runtime (`converters.needs`; without it every node takes
    all). `planner` makes single pipelines, `seconds` is what more the search for replicated stages may take.
    `brief`: shapes that take a search and may not be used have no figures, and the plan is made sooner.
    `measures` are what codecs do to the model's tensors (None: raw only).
    `clock` is read for `solve_seconds` only; `record` is given the costs that the plan was made of. Raises
    InsufficientCapacityError when the nodes cannot hold or run the model, PlanError when the options (pins,
    exclusions, limits, shapes) are wrong or leave no plan.
    """
    options = options or PlanOptions()
    planner = in_time if planner is solve and seconds <= 0 else planner
    begun = clock()
    if not permitted(fleet, options):
        raise shortage(graph, fleet, options, None)
    if not graph.steps:
        raise PlanError("the model has no operators to place")
    if needs is not None:
        check_somewhere(graph, permitted(fleet, options), needs)
    supports = None if needs is None else supports_of(needs)
    nodes = permitted(fleet, options)

    def costs_of(wanted: PlanOptions, states: Sequence[State] = ()) -> Costs:
        table = memory_by_runtime(graph, nodes, memory, states)
        return with_moves(build_costs(graph, profile, fleet, table, wanted, supports, states, measures), graph)

    def best(costs: Costs) -> Answer:
        if graph.stateful:
            return _of_stateful(costs, options, planner)
        return Answer(costs, *compare(costs, planner, options.shapes, seconds=seconds, brief=brief))

    def finished(costs: Costs, known: Layout | None, others: Sequence[Layout]) -> Plan:
        """The plan of a layout (None: behind the main broker alone there is none), over data brokers too."""
        layout = over_data_brokers(graph, costs, known, lambda problem: best(problem).layout, planner, ratios)
        record(costs)
        return assemble(graph, profile, costs, layout, others, clock() - begun, ratios)

    ratios = measures.ratios if measures else None
    states = chosen_states(graph, options, measures, fleet)
    prefixes = costs_of(options)
    try:
        try:
            known = best(prefixes)
        except NoPlanError:
            if not states:
                raise
            answer = best(costs_of(options, states))
        else:
            answer = _widened(graph, known, options, planner, states, lambda: costs_of(options, states), best)
    except NoPlanError as error:
        with contextlib.suppress(NoPlanError):
            return finished(prefixes, None, ())
        free = without_wishes(options)
        if free is not None and _has_plan(costs_of(free), planner):
            raise wishes_forbid(options) from error
        if reason := str(getattr(error, "reason", "")):
            raise PlanError(reason) from error
        if not error.proved:
            raise InsufficientCapacityError(
                "no plan was found, although one may exist: the nodes' memory is too scarce for the model"
            ) from error
        lacks = [] if needs is None else who_lacks(graph, permitted(fleet, options), needs)
        raise shortage(graph, fleet, options, prefixes, lacks) from error
    return finished(answer.costs, least_loss(answer.costs, answer.layout), answer.others)


def _widened(
    graph: Graph,
    known: Answer,
    options: PlanOptions,
    planner: Planner,
    states: Sequence[State],
    costs_of: Callable[[], Costs],
    best: Callable[[Costs], Answer],
) -> Answer:
    """The plan of prefixes, or a better one with cuts between branches or with codecs."""
    coded = any(state.codec != "raw" for state in states)
    allowed = coded or options.shapes is None or "pipeline" in options.shapes
    if not states or not allowed or not (graph.stateful or may_gain(graph, known, single=not coded)):
        return known
    if not coded:
        return with_branches(costs_of(), known, planner) or known
    try:
        other = best(costs_of())
    except NoPlanError:
        return known
    return with_reason(known, other) if better(known, other, graph.stateful) else known


def _of_stateful(costs: Costs, options: PlanOptions, planner: Planner) -> Answer:
    """One pipeline, with the fewest slices that fit unless the options name slices or their number."""
    if options.shapes is not None and "pipeline" not in options.shapes and "one-node" not in options.shapes:
        raise PlanError(
            f"shapes {', '.join(options.shapes)}: the model keeps state between frames, so they all go the same way"
        )
    fewest = options.max_slices is None and not options.pins
    others = (alone(costs, stateful=True),)
    for most in range(1, costs.max_slices) if fewest else ():
        with contextlib.suppress(NoPlanError):
            limited = replace(costs, max_slices=most)
            return Answer(limited, pipeline_layout(limited, planner(limited)), others)
    return Answer(costs, pipeline_layout(costs, planner(costs)), others)


def _has_plan(costs: Costs, planner: Planner) -> bool:
    try:
        planner(costs)
    except NoPlanError:
        return False
    return True
