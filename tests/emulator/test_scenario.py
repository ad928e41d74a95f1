"""Scenario files: what they say, and every way in which they can be wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from emulator.places import bandwidth, places, rates
from emulator.scenario import Scenario, read_scenario
from slicemq.errors import ConfigError

WHOLE = """
name = "small"
title = "A small site"

[broker]
kind = "mosquitto"
rate = "1 Gbit/s"

[client]
up = "100 Mbit/s"

[[nodes]]
type = "pi4"
prefix = "pi"
count = 3
cpu = 0.1
memory = "256 MB"
rate = "100 Mbit/s"

[[nodes]]
type = "zero"
up = "20 Mbit/s"
down = "30 Mbit/s"
delay = "2 ms"
joins = 5

[[deployments]]
name = "faces"
model = "models/x.tflite"
options = ["--objective", "latency"]

[load]
seconds = "1 min"
rate = 2.5

[[events]]
at = "10 s"
what = "kill"
node = "pi2"

[run]
repeats = 3

[run.sweep]
nodes = [1, 4]
rate = ["6 Mbit/s", "1 Gbit/s"]
"""


def read(folder: Path, text: str) -> Scenario:
    """The scenario that `text` is."""
    file = folder / "scenario.toml"
    file.write_text(text)
    return read_scenario(file)


def test_all_is_read_in_si_units(tmp_path: Path) -> None:
    scenario = read(tmp_path, WHOLE)
    assert (scenario.name, scenario.title, scenario.broker.rate) == ("small", "A small site", 1e9)
    assert (scenario.client.up, scenario.client.down) == (1e8, None)
    boards = scenario.boards()
    assert [board.name for board in boards] == ["pi1", "pi2", "pi3", "zero1"]
    assert [(board.up, board.down) for board in boards] == [(1e8, 1e8)] * 3 + [(2e7, 3e7)]
    assert (boards[0].kind.cpu, boards[0].kind.memory) == (0.1, 256_000_000)
    assert boards[3].kind.delay == 0.002
    assert (scenario.load.seconds, scenario.load.rate) == (60.0, 2.5)
    assert scenario.deployments[0].options == ("--objective", "latency")
    assert scenario.path("models/x.tflite") == tmp_path / "models/x.tflite"


def test_a_board_that_joins_later_is_an_event(tmp_path: Path) -> None:
    events = read(tmp_path, WHOLE).timeline()
    assert [(event.at, event.what, event.node) for event in events] == [(5, "join", "zero1"), (10, "kill", "pi2")]


def test_a_sweep_gives_every_combination(tmp_path: Path) -> None:
    variants = list(read(tmp_path, WHOLE).variants())
    assert [dict(variant.values) for variant in variants] == [
        {"rate": 6e6, "nodes": 1},
        {"rate": 6e6, "nodes": 4},
        {"rate": 1e9, "nodes": 1},
        {"rate": 1e9, "nodes": 4},
    ]
    assert [len(variant.boards()) for variant in variants] == [1, 4, 1, 4]
    assert {board.up for board in variants[1].boards()} == {6e6}
    # A board that is not there has no events.
    assert variants[0].timeline() == []


def test_without_a_sweep_there_is_one_variant(tmp_path: Path) -> None:
    (only,) = read(tmp_path, WHOLE.partition("[run.sweep]")[0]).variants()
    assert (dict(only.values), len(only.boards())) == ({}, 4)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cpu = 0.1", "cpus = 0.1", "[[nodes]] 1: unknown field 'cpus', did you mean cpu?"),
        ("cpu = 0.1", "xyzzy = 1", "[[nodes]] 1: unknown field 'xyzzy', expected one of"),
        ("cpu = 0.1", 'cpu = "much"', "[[nodes]] 1: field cpu: expected a number from 0.01 to 64, got 'much'"),
        ("cpu = 0.1", "cpu = nan", "field cpu: expected a number from 0.01"),
        ("cpu = 0.1", "cpu = true", "field cpu: expected a number"),
        ("count = 3", "count = 0", "field count: expected a whole number from 1"),
        ("count = 3", "count = 1.5", "field count: expected a whole number"),
        ('"256 MB"', '"256 Mbit"', "field memory: expected a size such as"),
        ('"256 MB"', "256", "field memory: expected a size such as"),
        ('rate = "1 Gbit/s"', 'rate = "1 GB"', "[broker]: field rate: expected a rate such as"),
        ('rate = "1 Gbit/s"', 'rate = "1 bit/s"', "[broker]: field rate: expected a rate from 10 kbit/s"),
        ('"2 ms"', '"2 m"', "field delay: expected seconds, or a time such as"),
        ('"2 ms"', "-1", "field delay: expected a time from 0"),
        ('kind = "mosquitto"', 'kind = "emqx"', "[broker]: field kind: expected mosquitto or amqtt, got 'emqx'"),
        ('name = "small"', "", "expected a field name"),
        ('name = "small"', 'name = "Small"', "field name: expected an id"),
        ('model = "models/x.tflite"', "", "[[deployments]] 1: expected a field model"),
        ('["--objective", "latency"]', '"--objective latency"', "field options: expected a list"),
        ('["--objective", "latency"]', "[1]", "field options, item 1: expected a text"),
        ("rate = 2.5", 'rate = "fast"', '[load]: field rate: expected "full" or frames per second'),
        ('seconds = "1 min"', "", "[load]: expected either seconds or frames"),
        ('seconds = "1 min"', "seconds = 1\nframes = 1", "[load]: expected either seconds or frames"),
        ('what = "kill"', 'what = "explode"', "[[events]] 1: field what: expected"),
        ('what = "kill"', 'what = "join"', "joins"),
        ('what = "kill"', 'what = "rate"', "expected a field up or down"),
        ('node = "pi2"', 'node = "pi9"', "field node: expected a board"),
        ('node = "pi2"', 'node = "pi2"\nup = "1 Mbit/s"', "field up: kill takes none"),
        ('seconds = "1 min"', "seconds = 0", "[load] seconds: expected more than 0"),
        ('seconds = "1 min"', "frames = 9\nwarm = 8", "[load] frames: expected at least 2 more than the 8 of warm"),
        ("cpu = 0.1", "energy = {idle_watts = 9}", "[[nodes]] 1: energy.busy_watts: expected at least idle_watts"),
        ('prefix = "pi"', f'prefix = "{"p" * 64}"', "[[nodes]] 1: field prefix: expected names of at most 64"),
        ("cpu = 0.1", "joins = 2", "[[nodes]]: expected a board without `joins` in every variant"),
        ("nodes = [1, 4]", "nodes = [5]", "[run.sweep] nodes: expected at most the fleet's 4, got 5"),
        ("nodes = [1, 4]", "nodes = []", "field nodes: expected a list of at least 1"),
        ("[run.sweep]\n", "[run]\n", "not TOML"),
        ('type = "zero"', 'type = "zero"\nprefix = "pi"', "two boards are called 'pi1'"),
        ("[load]", "[[load]]", "[load]: expected a table"),
        ("[[deployments]]", "[deployments]", "field deployments: expected tables [[deployments]]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in WHOLE
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, WHOLE.replace(old, new, 1))
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "scenario.toml"))
    assert said in text


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_scenario(tmp_path / "nowhere.toml")


def test_rates_fall_with_the_distance_as_in_the_paper() -> None:
    assert bandwidth(75.0) == pytest.approx(1e6 * math.log2(1 + 283230 / 75**2))
    assert bandwidth(75.0) == pytest.approx(5.68e6, rel=0.01)
    assert bandwidth(0.0) == bandwidth(1.0) == pytest.approx(18.1e6, rel=0.01)


@pytest.mark.parametrize("kind", ["ring", "grid", "cluster", "random"])
@pytest.mark.parametrize("count", [1, 2, 9, 20])
def test_places_are_within_reach_and_the_same_for_the_same_seed(kind: str, count: int) -> None:
    found = places(kind, count, 75.0, 3, seed=4)
    assert len(found) == count
    assert all(abs(x) <= 75 + 50 and abs(y) <= 75 + 50 for x, y in found)
    assert found == places(kind, count, 75.0, 3, seed=4)


def test_a_ring_has_equal_links_and_given_links_have_none() -> None:
    assert len({round(rate or 0) for rate in rates("ring", 8, 75.0, 3, 0)}) == 1
    assert rates("given", 2, 75.0, 3, 0) == [None, None]
