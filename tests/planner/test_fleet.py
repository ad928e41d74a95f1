"""Fleet files and capacity documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.planner.fleet import _LINK, _NODE, fleet_from_capacities, fleet_from_file, fleet_from_text
from slicemq.errors import ConfigError
from slicemq.messages import Capacity, Link, RuntimeInfo

DOCS = Path(__file__).parents[2] / "docs" / "reference"
NODE = '[[node]]\nid = "pi"\nmemory_mb = 100\nspeed = 0.5\nup_mbps = 100\ndown_mbps = 80\n'
PAIR = NODE.replace('"pi"', '"a"') + NODE.replace('"pi"', '"b"')
LINK = '[[link]]\na = "a"\nb = "b"\nmbps = 8\n'


def test_the_example_in_the_reference() -> None:
    text = (DOCS / "fleet-file.md").read_text()
    example = re.findall(r"```toml\n(.*?)```", text, re.S)
    assert len(example) == 2
    fleet = fleet_from_text(example[0])
    assert fleet.links == {}
    linked = fleet_from_text(example[0] + example[1])
    assert linked.links == {("pi-1", "gateway"): 37.5e6, ("gateway", "pi-1"): 37.5e6}
    assert [node.id for node in fleet.nodes] == ["pi-1", "pi-2", "pi-3", "pi-4", "gateway"]
    assert fleet.broker_rate == pytest.approx(50e6)
    first = fleet.nodes[0]
    assert (first.memory, first.up, first.down, first.rtt) == (300_000_000, 11.75e6, 11.75e6, 0.0015)
    assert first.speed("conv") == first.speed("anything") == pytest.approx(0.12)
    assert first.labels == {"room": "barn"}
    assert first.kind() == fleet.nodes[3].kind() != fleet.nodes[4].kind()


def test_every_field_is_in_the_reference() -> None:
    text = (DOCS / "fleet-file.md").read_text()
    for name in _NODE:
        assert f"node.{name}`" in text
    for name in _LINK:
        assert f"link.{name}`" in text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "node: expected at least one"),
        ("x = [", "not TOML"),
        ("[borker]\n" + NODE, "borker: unknown field; did you mean broker?"),
        (NODE.replace("memory_mb", "memory"), "node[0].memory: unknown field; did you mean memory_mb?"),
        (NODE + NODE.replace("speed = 0.5\n", ""), "node[1].speed: missing"),
        (NODE.replace("0.5", "0"), "node[0].speed: expected a number above 0, got 0"),
        (NODE.replace("0.5", "nan"), "node[0].speed"),
        (NODE.replace("0.5", "inf"), "node[0].speed"),
        (NODE.replace("0.5", "true"), "node[0].speed"),
        (NODE.replace("0.5", "1e-300"), "node[0].speed: expected at least 1e-06, got 1e-300"),
        (NODE.replace("0.5", "1e300"), "node[0].speed: expected less than 1e+12, got 1e+300"),
        (NODE.replace("0.5", '"fast"'), "node[0].speed: expected a number above 0, got 'fast'"),
        (NODE.replace('"pi"', '"Pi 4"'), "node[0].id: 'Pi 4' is not an id"),
        (NODE.replace('"pi"', "4"), "node[0].id: expected a text"),
        (NODE + "count = 0\n", "node[0].count: expected a whole number"),
        (NODE + "count = 2.5\n", "node[0].count: expected a whole number"),
        (NODE + "count = 100000\n", "node[0].count: expected a whole number"),
        (NODE + "rtt_ms = -1\n", "node[0].rtt_ms"),
        (NODE + "labels = [1]\n", "node[0].labels"),
        (NODE + "labels = { a = 1 }\n", "node[0].labels"),
        (NODE + "runtime = 5\n", "node[0].runtime"),
        (NODE + NODE, "node id pi: given twice"),
        ("node = 5\n", "node: expected at least one table"),
        (NODE + "busy_watts = -1\n", "node[0].busy_watts: expected a number, at least 0, got -1"),
        (NODE + 'joules_per_mb = "x"\n', "node[0].joules_per_mb: expected a number, at least 0"),
        (NODE + "busy = 1\n", "node[0].busy: expected a share, at least 0 and less than 1, got 1"),
        (NODE + "busy = true\n", "node[0].busy: expected a share"),
        ("link = 5\n" + NODE, "link: expected tables [[link]]"),
        (PAIR + LINK.replace('"b"', '"c"'), "link[0].b: 'c' is not the id of a node of this file"),
        (
            PAIR + LINK.replace('"b"', '"bb"'),
            "link[0].b: 'bb' is not the id of a node of this file; did you mean b?",
        ),
        (PAIR + LINK.replace('"b"', '"a"'), "link[0].b: expected another node than link[0].a, got 'a'"),
        (PAIR + LINK.replace('a = "a"', ""), "link[0].a: expected a text, got None"),
        (PAIR + LINK.replace("mbps", "mpbs"), "link[0].mpbs: unknown field; did you mean mbps?"),
        (PAIR + LINK.replace("8", "0"), "link[0].mbps: expected a number above 0, got 0"),
        (PAIR + LINK.replace("mbps = 8", ""), "link[0].mbps: missing"),
        (PAIR + LINK + "one_way = 1\n", "link[0].one_way: expected true or false, got 1"),
        (PAIR + LINK + LINK, "link[1].a: the link from a to b is given twice"),
        (
            PAIR + LINK + LINK.replace('"a"', '"x"').replace('"b"', '"a"').replace('"x"', '"b"'),
            "link[1].a: the link",
        ),
        ("broker = 5\n" + NODE, "broker: expected a table"),
        ("[broker]\nrate_mbps = -5\n" + NODE, "broker.rate_mbps"),
    ],
)
def test_what_is_wrong_is_named(text: str, names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fleet_from_text(text, "site.toml")
    assert "site.toml: " in str(caught.value)
    assert names in str(caught.value)


def test_links_go_both_ways_or_one() -> None:
    assert fleet_from_text(PAIR + LINK).links == {("a", "b"): 1e6, ("b", "a"): 1e6}
    one_way = fleet_from_text(PAIR + LINK + "one_way = true\n")
    assert one_way.links == {("a", "b"): 1e6}
    back = LINK.replace('a = "a"\nb = "b"\nmbps = 8', 'a = "b"\nb = "a"\nmbps = 16\none_way = true')
    both = fleet_from_text(PAIR + LINK + "one_way = true\n" + back)
    assert both.links == {("a", "b"): 1e6, ("b", "a"): 2e6}


def test_what_a_node_takes_and_what_others_use() -> None:
    plain = fleet_from_text(NODE).nodes[0]
    assert (plain.watts, plain.joules_per_byte, plain.busy) == (3.0, 0.0, 0.0)
    node = fleet_from_text(NODE + "busy_watts = 4.5\njoules_per_mb = 0.2\nbusy = 0.25\n").nodes[0]
    assert (node.watts, node.busy) == (4.5, 0.25)
    assert node.joules_per_byte == pytest.approx(2e-7)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        fleet_from_file(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes\.toml"):
        fleet_from_file(tmp_path / "bytes.toml")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        fleet_from_text(text)
    except ConfigError:
        pass
    else:
        pytest.fail("no random text is a fleet")


def capacity(node: str, speeds: dict[str, float]) -> Capacity:
    return Capacity(
        node=node,
        epoch="0" * 16,
        software="test",
        arch="aarch64",
        cores=4.0,
        threads=4,
        memory=123_000_000,
        worker_memory=50_000_000,
        runtime=RuntimeInfo("tflite_runtime", "2.14.0"),
        speeds=speeds,
        link=Link(up=1e6, down=2e6, rtt=0.004),
        codecs=("raw", "f16"),
        labels={"room": "barn"},
    )


def test_capacities_become_ratios_of_speeds() -> None:
    reference = {"conv": 100.0, "depthwise": 50.0, "dense": 10.0, "elementwise": 400.0}
    fleet = fleet_from_capacities(
        [capacity("b", {"conv": 50.0, "depthwise": 100.0}), capacity("a", {"conv": 10.0, "other": 5.0})], reference
    )
    a, b = fleet.nodes
    assert (a.id, b.id) == ("a", "b")
    assert (b.memory, b.up, b.down, b.rtt) == (123_000_000, 1e6, 2e6, 0.004)
    assert (b.runtime, b.codecs, dict(b.labels)) == ("tflite_runtime", ("raw", "f16"), {"room": "barn"})
    assert b.speed("conv") == pytest.approx(0.5)
    assert b.speed("depthwise") == pytest.approx(2.0)
    assert b.speed("dense") == pytest.approx(1.0), "a class that was not measured: geometric mean of the others"
    assert a.speed("dense") == pytest.approx(0.1), "classes that the reference lacks are left out"
    assert fleet.broker_rate is None
