"""Plans whose lossy codecs keep to the error budget as measured, not only as estimated.

A plan's error is estimated as the sum of its cuts' errors. The chosen plan is run as planned; where it errs more
than the budget, it is planned once more with a budget that is smaller in proportion, and then without losses.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

from coordinator.planner.model import PlanOptions
from coordinator.planner.plan import Plan, Samples
from slicemq.codecs import is_lossless

logger = logging.getLogger("slicemq.coordinator.error_budget")

CAREFUL = 0.9
"""The share of the scaled budget that a second plan is given: another plan's estimate is off by another factor."""
ROUNDING = 1e-9


def lossless(options: PlanOptions) -> PlanOptions:
    """The options without lossy codecs."""
    return replace(options, codecs=tuple(codec for codec in options.codecs if is_lossless(codec)))


def kept_budget(
    make: Callable[[PlanOptions], Plan],
    options: PlanOptions,
    measure: Callable[[Plan], float],
    samples: Samples = "noise",
) -> Plan:
    """The plan that `make` makes with these options, or with stricter ones, whose measured error is in the budget.

    `measure` runs a plan on `samples` and gives its error, 0.0 for one without losses. Raises what they raise.
    """
    budget = options.goal.error_budget
    plan = make(options)
    if plan.error is None:
        return plan
    found = measure(plan)
    if found > budget * (1 + ROUNDING) and math.isfinite(found):
        scaled = CAREFUL * plan.error.estimated * budget / found
        logger.warning("a plan errs by %.3g, the budget is %.3g: planning again for %.3g", found, budget, scaled)
        plan = make(replace(options, goal=replace(options.goal, error_budget=scaled)))
        found = 0.0 if plan.error is None else measure(plan)
    if not found <= budget * (1 + ROUNDING):
        logger.warning("a plan errs by %.3g, the budget is %.3g: planning without lossy codecs", found, budget)
        plan = make(lossless(options))
    if plan.error is None:
        return replace(plan, reason=f"{plan.reason}; plans with lossy codecs err more than the budget as measured")
    return replace(plan, error=replace(plan.error, budget=budget, measured=float(f"{found:.6g}"), samples=samples))
