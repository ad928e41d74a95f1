"""The scenarios that come with SliceMQ: they can be read, and each variant has a plan on paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from converters.graph import read_graph
from converters.profile import estimate
from converters.schema import open_model
from coordinator.planner import make_plan
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.wishes import options_from_plain
from emulator.library import FOLDER, find_scenario, shipped
from emulator.models import model_path
from emulator.scenario import Board, Scenario, read_scenario
from slicemq.errors import ConfigError, UsageError

NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
LARGE = {"defer-resnet50", "defer-vgg16", "seifer-ring", "seifer-grid", "seifer-cluster"}
_UNLIMITED = 125e6
_ROOMY = 4_000_000_000


def _node(board: Board) -> NodeSpec:
    up, down = (_UNLIMITED if rate is None else rate / 8 for rate in (board.up, board.down))
    return NodeSpec(
        id=board.name,
        memory=board.kind.memory or _ROOMY,
        speeds={"all": board.kind.cpu or 1.0},
        up=up,
        down=down,
        rtt=2 * board.kind.delay,
    )


def _options(words: Sequence[str]) -> PlanOptions:
    """The words for `slicemq deploy` as the planner's options: those that the shipped scenarios use."""
    given = dict[str, list[str]]()
    for name, value in zip(words[::2], words[1::2], strict=True):
        given.setdefault(name, []).append(value)
    body: dict[str, object] = {}
    if "--shape" in given:
        body["shape"] = given.pop("--shape")
    if "--pin" in given:
        body["pins"] = dict(pin.split("=") for pin in given.pop("--pin"))
    assert not given
    return options_from_plain(body)


def _plans(scenario: Scenario) -> None:
    for variant in scenario.variants():
        for deployment in variant.deployments:
            try:
                path = model_path(variant, deployment.model)
            except ConfigError as error:
                pytest.skip(str(error))
            graph = read_graph(open_model(path))
            fleet = Fleet(tuple(_node(board) for board in variant.boards()))
            plan = make_plan(graph, estimate(graph), fleet, options=_options(deployment.options))
            assert plan.period_ms > 0
            assert 1 <= len(plan.slices) <= len(variant.boards())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LARGE])
def test_there_is_a_plan_on_paper(name: str) -> None:
    _plans(read_scenario(find_scenario(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGE))
def test_there_is_a_plan_on_paper_for_the_large_ones(name: str) -> None:
    _plans(read_scenario(find_scenario(name)))


def test_each_is_named_as_its_file_and_says_what_it_is() -> None:
    found = shipped()
    assert [scenario.name for scenario in found] == NAMES
    assert len(found) == 10
    assert all(scenario.title and re.search(r"[Tt]akes .*(minute|hour)", scenario.text) for scenario in found)


def test_seifer_rates_are_those_of_its_formula() -> None:
    ring = read_scenario(find_scenario("seifer-ring")).boards()
    # log2(1 + 283230 / 75^2) = log2(51.352) = ln 51.352 / ln 2 = 3.93870 / 0.693147 Mbit/s
    assert [rate for board in ring for rate in (board.up, board.down)] == pytest.approx([5.68235e6] * 40, rel=1e-5)
    grid = read_scenario(find_scenario("seifer-grid")).boards()
    assert len({board.up for board in grid}) > 1


def test_a_path_is_a_path_and_an_unknown_name_is_an_error() -> None:
    assert find_scenario("my.toml") == Path("my.toml")
    assert find_scenario("here/there") == Path("here/there")
    with pytest.raises(UsageError, match="no scenario 'wi-fi': did you mean wifi"):
        find_scenario("wi-fi")
    with pytest.raises(UsageError, match="expected a file, or one of birdnet-site, defer-resnet50"):
        find_scenario("q")


def _scenario(tmp_path: Path) -> Scenario:
    return Scenario("x", file=tmp_path / "x.toml")


def test_models_are_found_by_path_package_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.tflite").write_bytes(b"")
    assert model_path(_scenario(tmp_path), "m.tflite") == tmp_path / "m.tflite"
    assert model_path(_scenario(tmp_path), "package:numpy/py.typed").name == "py.typed"
    monkeypatch.setenv("SLICEMQ_MODELS", str(tmp_path))
    assert model_path(_scenario(tmp_path), "cache:m") == tmp_path / "m.tflite"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no.tflite", "there is no file"),
        ("package:numpy/no.tflite", "numpy is not installed or has no such file"),
        ("package:nothing_at_all/x", "nothing_at_all is not installed"),
        ("package:numpy", "expected package:PACKAGE/FILE"),
        ("cache:no-such-model", "benchmarks.make_models --only no-such-model"),
    ],
)
def test_a_model_that_is_not_there_is_named(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        model_path(_scenario(tmp_path), given)
