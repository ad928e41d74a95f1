"""Planning methods of others, each from its paper's description, to compare with: costs in, plan out (PURE).

Every one answers with the true figures of its plan by our cost model, and raises NoPlanError (not proved) when
its plan does not fit or it finds none.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from coordinator.planner.baselines.coral import coral
from coordinator.planner.baselines.defer import defer
from coordinator.planner.baselines.dnnpipe import dnnpipe
from coordinator.planner.baselines.greedy import greedy
from coordinator.planner.baselines.pipeedge import pipeedge
from coordinator.planner.baselines.random_cuts import random_plan
from coordinator.planner.baselines.seifer import seifer
from coordinator.planner.model import Planner

BASELINES: Mapping[str, Planner] = MappingProxyType(
    {
        "random": random_plan,
        "greedy": greedy,
        "seifer": seifer,
        "defer": defer,
        "pipeedge": pipeedge,
        "dnnpipe": dnnpipe,
        "coral": coral,
    }
)
"""By the name that `slicemq plan make --planner` takes."""
