"""Linear programs and mixed-integer ones by HiGHS through SciPy, which may not be installed (PURE).

Everything else in the planner works without it: whoever asks looks at `available()` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from scipy.optimize import Bounds, LinearConstraint, linprog
    from scipy.optimize import milp as _milp
    from scipy.sparse import csr_array
except ImportError:  # pragma: no cover - the tests set _FOUND instead
    _FOUND = False
else:
    _FOUND = True

Vector = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_OPTIMAL, _LIMIT, _INFEASIBLE = 0, 1, 2


def available() -> bool:
    """Whether SciPy is installed."""
    return _FOUND


@dataclass(frozen=True)
class Program:
    """Make `aim` x least with low <= A x <= high and 0 <= x <= upper.

    A has an entry `values[e]` in row `rows[e]` and column `columns[e]`; entries of the same place add up. A row
    whose `low` and `high` are equal is an equation; a low of minus infinity makes it an upper limit. No row has two
    different finite sides.
    """

    aim: Vector
    rows: Numbers
    columns: Numbers
    values: Vector
    low: Vector
    high: Vector
    upper: Vector


@dataclass(frozen=True)
class Linear:
    """The optimum of a linear program; `prices[r]` is how fast its value rises with the limit of row r."""

    value: float
    x: Vector
    prices: Vector


@dataclass(frozen=True)
class Whole:
    """What is known of a program in whole numbers.

    `x` is the best solution found (None: none). `bound` is what no solution is below, by the solver's word:
    infinite when it says that there is none. `ended`: the search was not cut off by its limits.
    """

    x: Vector | None
    value: float
    bound: float
    ended: bool


def lp(program: Program, seconds: float | None = None) -> Linear | None:
    """The optimum; None when there is no solution, or none within `seconds`."""
    matrix = _matrix(program)
    equal = program.low == program.high
    options: dict[str, Any] = {} if seconds is None else {"time_limit": max(seconds, 0.01)}
    answer = linprog(
        program.aim,
        A_ub=matrix[~equal],
        b_ub=program.high[~equal],
        A_eq=matrix[equal],
        b_eq=program.high[equal],
        bounds=np.column_stack([np.zeros(len(program.aim)), program.upper]),
        method="highs",
        options=options,
    )
    if answer.status != _OPTIMAL:
        return None
    prices = np.zeros(len(program.low))
    prices[equal] = answer.eqlin.marginals
    prices[~equal] = answer.ineqlin.marginals
    return Linear(float(answer.fun), np.asarray(answer.x), prices)


def milp(program: Program, whole: npt.NDArray[np.bool_], seconds: float, gap: float = 0.0) -> Whole:
    """The best solution in which the variables marked in `whole` are whole numbers.

    The search ends after `seconds` of time or when value and bound are within the share `gap`.
    """
    if seconds <= 0:
        return Whole(None, np.inf, -np.inf, ended=False)
    answer = _milp(
        program.aim,
        integrality=whole.astype(int),
        bounds=Bounds(np.zeros(len(program.aim)), program.upper),
        constraints=LinearConstraint(_matrix(program), program.low, program.high),
        options={"time_limit": seconds, "mip_rel_gap": gap},
    )
    if answer.status == _INFEASIBLE:
        return Whole(None, np.inf, np.inf, ended=True)
    bound = -np.inf if answer.mip_dual_bound is None else float(answer.mip_dual_bound)
    x = None if answer.x is None else np.asarray(answer.x)
    value = np.inf if x is None else float(answer.fun)
    return Whole(x, value, min(bound, value), ended=answer.status == _OPTIMAL)


def _matrix(program: Program) -> Any:
    shape = (len(program.low), len(program.aim))
    return csr_array((program.values, (program.rows, program.columns)), shape=shape)
