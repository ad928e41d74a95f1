"""Which codec a plan gives a link: by its rate, by what nodes at both ends have, by what may be lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from converters.codec_errors import CodecMeasures
from converters.profile import Profile
from coordinator.planner import make_plan
from coordinator.planner.goal import Goal
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.plan import Plan
from coordinator.planner.tables.codec_costs import KEPT, chosen_states
from coordinator.planner.tables.states import down_sets
from slicemq.codecs import CODECS, is_lossless
from tests.planner.instances import make_graph
from tests.planner.test_make_states import by_weight

MB = 1_000_000
LENGTH = 6
GRAPH = make_graph(
    [("CONV_2D", (k,), (k + 1,), False) for k in range(LENGTH)],
    [400, *([MB] * (LENGTH - 1)), 400],
    (0,),
    (LENGTH,),
    [MB] * LENGTH,
)
INNER = down_sets(GRAPH).done[1:-1]
ERRORS = {"int16": 1e-4, "f16": 1e-3, "zfp4": 1e-4, "zfp3": 1e-3, "int8c": 5e-3, "int8": 2e-2, "zfp2": 1e-2}
SHARES = {"lz4": 0.98, "lz4s": 0.9, "zstd": 0.75, "zfp4": 0.5, "zfp3": 0.4, "zfp2": 0.3}
MEASURES = CodecMeasures(
    {name: dict.fromkeys(range(1, LENGTH), share) for name, share in SHARES.items()},
    {name: dict.fromkeys(INNER, error) for name, error in ERRORS.items()},
)


def planned(rate: float, budget: float, nodes: Sequence[Sequence[str]] = (CODECS,) * 3) -> Plan:
    """A plan for nodes with these codecs, each with memory for two operators, and links of `rate` bytes/s."""
    specs = [
        NodeSpec(f"n{k}", 2 * MB, {"all": 1.0}, rate, rate, codecs=tuple(names)) for k, names in enumerate(nodes)
    ]
    profile = Profile(dict.fromkeys(range(LENGTH), 0.01), "test", measured=True, overhead=0.0)
    options = PlanOptions(goal=Goal(error_budget=budget), codecs=CODECS, shapes=("pipeline",))
    return make_plan(GRAPH, profile, Fleet(tuple(specs)), memory=by_weight, options=options, measures=MEASURES)


def between(plan: Plan) -> list[str]:
    return [b.codec for b in plan.bundles if b.source != "client" and b.targets != ("client",)]


def test_each_rate_of_links_has_its_codec() -> None:
    assert set(between(planned(1e10, 0.0))) == {"raw"}, "a link that takes no time"
    assert set(between(planned(1e6, 0.0))) == {"zstd"}, "the fewest bytes without loss"
    assert set(between(planned(1e6, 0.1))) <= {"int8", "int8c"}, "the fewest bytes"
    careful = planned(1e6, 0.003)
    assert not {"int8", "int8c", "zfp2", "raw"} & set(between(careful))
    assert careful.error is not None
    assert careful.error.estimated <= 0.003
    assert planned(1e6, 0.1).period_ms < careful.period_ms < planned(1e6, 0.0).period_ms


@pytest.mark.parametrize("lacks", [("zstd",), ("zstd", "lz4s", "lz4"), ("int8", "int8c"), CODECS[1:]])
@pytest.mark.parametrize("poor", [0, 1])
def test_a_link_has_what_both_ends_have(lacks: Sequence[str], poor: int) -> None:
    has = {f"n{k}": tuple(c for c in CODECS if k != poor or c not in lacks) for k in range(3)}
    for budget in (0.0, 0.1):
        plan = planned(1e6, budget, list(has.values()))
        node_of = {item.id: item.nodes for item in plan.slices}
        for bundle in plan.bundles:
            ends = [node for end in (bundle.source, *bundle.targets) for node in node_of.get(end, ())]
            assert all(bundle.codec in has[node] for node in ends)
            assert budget > 0 or is_lossless(bundle.codec)


def test_what_no_two_nodes_have_takes_no_place_of_others() -> None:
    plain = ("raw", "lz4", "int16")
    assert set(between(planned(1e6, 0.1, [plain, plain, CODECS]))) == {"int16"}
    assert set(between(planned(1e6, 0.0, [plain, plain, CODECS]))) == {"lz4"}


def test_more_codecs_do_not_mean_more_states() -> None:
    options = PlanOptions(codecs=CODECS, goal=Goal(error_budget=0.1))
    assert len(chosen_states(GRAPH, options, MEASURES)) <= (1 + KEPT) * len(INNER) + 2
    three = replace(options, codecs=("raw", "zstd", "int16", "int8"))
    assert len(chosen_states(GRAPH, three, MEASURES)) == 4 * len(INNER) + 2
