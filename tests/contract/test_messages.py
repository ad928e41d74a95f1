"""Control documents: what comes in is what went out, and whatever else comes in is refused by name."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicemq import messages as m
from slicemq.errors import ProtocolError, VersionError

TOPIC = "slicemq/v1/lab/some/topic"
SHA = "ab" * 32
STAMP = m.Stamp(3, "0123456789abcdef", 17)
SPEC = m.TensorSpec(5, "input", "float32", (1, -1, 3))
BUNDLE = m.Bundle("b0", (SPEC,), "f16")
SLICE = m.SliceAssignment("faces", "7-0123abcd", "s0", m.Artifact(SHA, 9), 100, (5,), (6,), (BUNDLE,))
LAST = dataclasses.replace(SLICE, result=m.ResultPart(0, 2, (SPEC,)))
CARRIED = dataclasses.replace(
    SLICE, inputs=(dataclasses.replace(BUNDLE, broker="n1"),), brokers={"n1": "mqtt://n1.local:1884"}
)
LANES = (m.Lane((0, 2), (BUNDLE,), 1), m.Lane((1,), (dataclasses.replace(BUNDLE, id="b2"),), 2))
KINDS: dict[str, Any] = {
    "coordinator": m.CoordinatorState("ready", STAMP, 1.5, "0.1"),
    "state": m.NodeState("n1", "draining", "ffff", "0.1"),
    "capacity": m.Capacity(
        "n1", "ffff", "0.1", "armv7l", 0.2, 1, 10**8, 10**7, m.RuntimeInfo("tflite_runtime", "2.14.0"),
        {"conv": 12.5}, m.Link(1e6, 2e6, 0.01), ("raw", "f16"), (SHA,), {"room": "hall"},
    ),
    "heartbeat": m.Heartbeat("n1", "ffff", 9, 0.5, 10, (m.SliceBeat("faces", "7-0123abcd", "s0", "up"),), STAMP),
    "heartbeat-new": m.Heartbeat("n1", "ffff", 0, 0.5, 10),
    "assignment": m.Assignment("n1", STAMP, (SLICE, LAST)),
    "assignment-none": m.Assignment("n1", STAMP, ()),
    "report": m.Report("n1", "ffff", 1, (m.SliceReport("faces", "7-0123abcd", "s0", "failed", "why"),), STAMP),
    "pipeline": m.PipelineDocument(
        "faces", STAMP, "running", "", SHA, SHA, (SPEC,), (SPEC,),
        (m.Route("7-0123abcd", "active", 1.0, (BUNDLE,), 2),), 8, 2, 1,
    ),
    "assignment-turns": m.Assignment("n1", STAMP, (dataclasses.replace(SLICE, turns=(0, 2), of=3),)),
    "assignment-brokers": m.Assignment("n1", STAMP, (CARRIED,)),
    "capacity-broker": m.Capacity(
        "n1", "ffff", "0.1", "armv7l", 0.2, 1, 10**8, 10**7, m.RuntimeInfo("tflite_runtime", "2.14.0"),
        {"conv": 12.5}, m.Link(1e6, 2e6, 0.01), broker="mqtts://n1.local:8884",
    ),
    "pipeline-turns": m.PipelineDocument(
        "faces", STAMP, "running", "", SHA, SHA, (SPEC,), (SPEC,),
        (m.Route("7-0123abcd", "active", 1.0, (), 0, 3, LANES),), 8,
    ),
    "plan": m.PlanDocument("faces", STAMP, "7-0123abcd", m.Artifact(SHA, 9), {"slices": [1, {"a": None}]}),
    "request": m.Request("t1", {"name": "faces"}),
    "response": m.Response("t1", "no", 41, {}),
    "chunks": m.ChunkRequest("n1", "t1", 0, 131072, 8),
    "beat": m.Beat("0123456789abcdef", 4),
}  # fmt: skip


def plain(name: str) -> dict[str, Any]:
    """The JSON object of one of KINDS."""
    found: dict[str, Any] = json.loads(m.encode(KINDS[name]))
    return found


def read(name: str, body: Any) -> Any:
    """Decode a JSON value as the kind of one of KINDS."""
    return m.decode(type(KINDS[name]), json.dumps(body).encode(), TOPIC)


@pytest.mark.parametrize("name", KINDS)
def test_round_trip(name: str) -> None:
    document = KINDS[name]
    payload = m.encode(document)
    assert payload.startswith(b'{"protocol":"1.4",')
    assert m.decode(type(document), payload, TOPIC) == document
    assert m.from_plain(type(document), m.to_plain(document), "here") == document


@pytest.mark.parametrize("name", KINDS)
def test_unknown_fields_are_ignored(name: str) -> None:
    assert read(name, {**plain(name), "from_the_future": [1]}) == KINDS[name]
    later = read(name, {**plain(name), "protocol": "1.9"})
    if isinstance(later, m.Capacity):
        assert later.protocol == "1.9"
        later = dataclasses.replace(later, protocol=m.PROTOCOL)
    assert later == KINDS[name]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("version", ["2.0", "0.9", "11.0"])
def test_another_major_version_is_refused_naming_both(name: str, version: str) -> None:
    with pytest.raises(VersionError, match=rf"some/topic.*'{re.escape(version)}'.*'1\.4'"):
        read(name, {**plain(name), "protocol": version})


@pytest.mark.parametrize("version", [None, 1, 1.0, "", "one", "1", "1.", "²", "1." + "9" * 5000, ["1.0"], {}])
def test_what_is_no_version_is_refused(version: Any) -> None:
    with pytest.raises(ProtocolError, match="field protocol") as caught:
        read("beat", {**plain("beat"), "protocol": version})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{", b"null", b"[]", b'"text"', b"1", b"\xff\xfe", b"{}", b'{"protocol":"1.0"}',
        b'{"protocol":"1.0","instance":"a","counter":NaN}',
        b'{"protocol":"1.0","instance":"a","counter":Infinity}',
        b'{"protocol":"1.0","instance":"a","counter":1e999}',
        b'{"protocol":"1.0","instance":"a","counter":' + b"9" * 1_000_000 + b"}",
        b'{"protocol":"1.0","instance":"a","counter":18446744073709551616}',
        b'{"protocol":"1.0","instance":"a","counter":true}',
        b'{"protocol":"1.0","instance":"a","counter":1.0}',
        b'{"protocol":"1.0","instance":"a","counter":"1"}',
        b'{"protocol":"1.0","instance":["a"],"counter":1}',
        b"[" * 200_000,
        b'{"protocol":"1.0","instance":' + b"[" * 100_000 + b"]" * 100_000 + b',"counter":1}',
        b" " * (m.MAX_DOCUMENT_BYTES + 1),
    ],
)  # fmt: skip
def test_what_is_no_document_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="some/topic") as caught:
        m.decode(m.Beat, payload, TOPIC)
    assert len(str(caught.value)) < 600


WRONG: list[tuple[str, str, Any]] = [
    ("capacity", "codecs", "raw"),
    ("capacity", "codecs", {"raw": 1}),
    ("capacity", "codecs", [1]),
    ("capacity", "artifacts", "ab"),
    ("capacity", "memory", True),
    ("capacity", "memory", -1),
    ("capacity", "memory", 1.5),
    ("capacity", "memory", 1 << 64),
    ("capacity", "cores", True),
    ("capacity", "cores", "1"),
    ("capacity", "cores", 1 << 60),
    ("capacity", "speeds", {"conv": 0}),
    ("capacity", "speeds", {"conv": True}),
    ("capacity", "speeds", [1]),
    ("capacity", "link", {"up": 0, "down": 1, "rtt": 0}),
    ("capacity", "link.up", "1"),
    ("capacity", "link", None),
    ("capacity", "runtime", "tflite"),
    ("capacity", "labels", {"a": 1}),
    ("capacity", "operators", ["ADD"]),
    ("capacity", "operators", {"ADD": 0}),
    ("capacity", "operators", {"ADD": True}),
    ("capacity", "operators", {"ADD": 1.0}),
    ("capacity", "operators", {"ADD": 1 << 31}),
    ("capacity", "operators", {"A\nB": 1}),
    ("capacity", "operators", {"A" * 129: 1}),
    ("capacity", "operators", {f"OP_{i}": 1 for i in range(4097)}),
    ("capacity", "node", "Not An Id"),
    ("capacity", "node", "request"),
    ("state", "state", "resting"),
    ("state", "state", ["ready"]),
    ("state", "epoch", 7),
    ("heartbeat", "slices", {}),
    ("heartbeat", "slices", [["faces"]]),
    ("heartbeat", "seen", 3),
    ("heartbeat", "seen.term", "3"),
    ("assignment", "slices", None),
    ("assignment", "slices", "s0"),
    ("assignment", "stamp", [3, "a", 1]),
    ("assignment", "slices.0.revision", "0-0123abcd"),
    ("assignment", "slices.0.revision", "7-0123ABCD"),
    ("assignment", "slices.0.artifact.sha256", "ab"),
    ("assignment", "slices.0.artifact.size", 0),
    ("assignment", "slices.0.inputs.0.tensors", []),
    ("assignment", "slices.0.inputs.0.id", "b/0"),
    ("assignment", "slices.0.inputs.0.tensors.0.shape", "13"),
    ("assignment", "slices.0.inputs.0.tensors.0.shape", [1, True]),
    ("assignment", "slices.0.takes", [1.0]),
    ("assignment-turns", "slices.0.turns", []),
    ("assignment-turns", "slices.0.turns", [3]),
    ("assignment-turns", "slices.0.turns", [-1]),
    ("assignment-turns", "slices.0.turns", [1, 1]),
    ("assignment-turns", "slices.0.turns", [2, 0]),
    ("assignment-turns", "slices.0.turns", ["0"]),
    ("assignment-turns", "slices.0.turns", "02"),
    ("assignment-turns", "slices.0.of", 0),
    ("assignment-turns", "slices.0.of", 2),
    ("assignment-turns", "slices.0.of", 257),
    ("assignment-turns", "slices.0.stateful", True),
    ("pipeline-turns", "routes.0.turns", 1),
    ("pipeline-turns", "routes.0.turns", 4),
    ("pipeline-turns", "routes.0.turns", 257),
    ("pipeline-turns", "routes.0.turns", (1 << 63) - 1),
    ("pipeline-turns", "routes.0.parts", 1),
    ("pipeline-turns", "routes.0.entry", [{"id": "b0", "tensors": [dataclasses.asdict(SPEC)]}]),
    ("pipeline-turns", "routes.0.lanes", []),
    ("pipeline-turns", "routes.0.lanes.0.turns", [0]),
    ("pipeline-turns", "routes.0.lanes.0.turns", [0, 1]),
    ("pipeline-turns", "routes.0.lanes.0.turns", [0, 2, 3]),
    ("pipeline-turns", "routes.0.lanes.1.parts", 0),
    ("pipeline-turns", "routes.0.lanes.1.parts", 1025),
    ("pipeline-turns", "routes.0.lanes.1.entry", None),
    ("pipeline-turns", "routes.0.lanes.1.entry", []),
    ("pipeline", "routes.0.turns", 2),
    ("assignment-brokers", "slices.0.inputs.0.broker", "N1"),
    ("assignment-brokers", "slices.0.inputs.0.broker", None),
    ("assignment-brokers", "slices.0.brokers", {}),
    ("assignment-brokers", "slices.0.brokers", {"n1": 7}),
    ("assignment-brokers", "slices.0.brokers", {"n1": "n1.local:1884"}),
    ("assignment-brokers", "slices.0.brokers", {"n1": "mqtt://n1.local", "N2": "mqtt://n2.local"}),
    ("assignment-brokers", "slices.0.brokers.n1", "mqtt://user@n1.local"),
    ("assignment-brokers", "slices.0.brokers.n1", "mqtt://user:secret@n1.local"),
    ("capacity-broker", "broker", "http://n1.local"),
    ("capacity-broker", "broker", "mqtt://n1.local:0"),
    ("capacity-broker", "broker", "mqtt://n1\x00.local"),
    ("capacity-broker", "broker", "mqtt://" + "n" * 300),
    ("capacity-broker", "broker", None),
    ("pipeline", "routes.0.entry.0.broker", "n1"),
    ("pipeline-turns", "routes.0.lanes.0.entry.0.broker", "n1"),
    ("pipeline", "state", "on"),
    ("pipeline", "window", 0),
    ("pipeline", "routes.0.parts", 0),
    ("pipeline", "routes.0.parts", 1025),
    ("pipeline", "routes.0.weight", "1"),
    ("pipeline", "routes.0.state", "paused"),
    ("plan", "plan", [1]),
    ("request", "transaction", ""),
    ("request", "transaction", "t" * 65),
    ("request", "body", []),
    ("chunks", "chunk", 0),
    ("chunks", "chunk", (1 << 20) + 1),
    ("chunks", "chunks", 65),
    ("chunks", "offset", -1),
    ("chunks", "receiver", "+"),
    ("chunks", "transaction", "é"),
]


@pytest.mark.parametrize(("name", "field", "value"), WRONG)
def test_a_wrong_field_is_refused_by_name(name: str, field: str, value: Any) -> None:
    body = plain(name)
    *path, last = field.split(".")
    place: Any = body
    for step in path:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[last] = value
    with pytest.raises(ProtocolError) as caught:
        read(name, body)
    text = str(caught.value)
    assert TOPIC in text
    assert type(KINDS[name]).__name__ in text
    assert last in text or any(step in text for step in path if not step.isdigit())


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_field_is_refused_by_name(name: str) -> None:
    kind = type(KINDS[name])
    for field in dataclasses.fields(kind):
        body = plain(name)
        if field.name == "protocol":
            continue  # in every document; test_what_is_no_version_is_refused
        del body[field.name]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required:
            with pytest.raises(ProtocolError, match=field.name):
                read(name, body)
        else:
            read(name, body)


def test_a_long_value_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ProtocolError) as caught:
        read("state", {**plain("state"), "node": {"x": "y" * 100_000}})
    assert len(str(caught.value)) < 600


def test_a_document_that_nests_deeply_is_refused_before_it_is_kept() -> None:
    """It could be read, but not written again: the store's writer would exhaust its stack."""
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ProtocolError, match="nested"):
        read("request", {**plain("request"), "body": {"options": deep}})


def test_nothing_that_json_cannot_carry_is_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        m.encode(m.CoordinatorState("ready", STAMP, float("nan"), "0"))


def test_stamps_are_ordered_by_term_then_instance_then_counter() -> None:
    """Rule 21."""
    stamps = [m.Stamp(2, "b", 0), m.Stamp(2, "a", 10), m.Stamp(2, "a", 1), m.Stamp(1, "b", 9)]
    assert sorted(stamps) == stamps[::-1]


def test_epochs_are_64_random_bits() -> None:
    """Rule 16."""
    epochs = {m.new_epoch() for _ in range(100)}
    assert len(epochs) == 100
    assert all(re.fullmatch("[0-9a-f]{16}", epoch) for epoch in epochs)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_documents_are_read_or_refused(data: st.DataObject) -> None:
    """Whatever stands in any field: a document whose fields have their types, or ProtocolError."""
    name = data.draw(st.sampled_from(sorted(KINDS)))
    body = plain(name)
    place: Any = body
    for _ in range(data.draw(st.integers(0, 5))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        keys = [key for key in keys if isinstance(place[key], (dict, list)) and place[key]]
        if not keys:
            break
        place = place[data.draw(st.sampled_from(keys))]
    key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
    place[key] = data.draw(json_values)
    try:
        document = read(name, body)
    except ProtocolError:
        return
    assert m.decode(type(document), m.encode(document), TOPIC) == document


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=200), kind=st.sampled_from(sorted({type(k).__name__ for k in KINDS.values()})))
def test_random_bytes_are_refused(payload: bytes, kind: str) -> None:
    with pytest.raises(ProtocolError):
        m.decode(getattr(m, kind), payload, TOPIC)


def test_every_word_of_the_contract_is_read() -> None:
    for word in get_args(m.NodeStateWord):
        assert read("state", {**plain("state"), "state": word}).state == word
    for word in get_args(m.PipelineStateWord):
        assert read("pipeline", {**plain("pipeline"), "state": word}).state == word
    for word in get_args(m.CoordinatorStateWord):
        assert read("coordinator", {**plain("coordinator"), "state": word}).state == word


def test_a_node_says_by_its_version_whether_it_knows_turns() -> None:
    for version, knows in (("1.0", False), ("1.1", False), ("1.2", True), ("1.10", True)):
        assert read("capacity", {**plain("capacity"), "protocol": version}).knows_turns is knows


def test_a_node_says_by_its_version_whether_it_knows_data_brokers() -> None:
    for version, knows in (("1.2", False), ("1.3", True), ("1.10", True)):
        assert read("capacity", {**plain("capacity"), "protocol": version}).knows_data_brokers is knows


def test_no_password_of_a_broker_url_is_repeated() -> None:
    with pytest.raises(ProtocolError) as caught:
        read("capacity-broker", {**plain("capacity-broker"), "broker": "mqtt://user:secret@n1.local"})
    assert "secret" not in str(caught.value)


def test_a_frame_takes_the_turn_of_its_number() -> None:
    (route,) = KINDS["pipeline-turns"].routes
    assert [route.turn(q) for q in (0, 1, 2, 3, (1 << 64) - 1)] == [0, 1, 2, 0, ((1 << 64) - 1) % 3]
    assert [route.lane(q) for q in range(5)] == [LANES[0], LANES[1], LANES[0], LANES[0], LANES[1]]
    assert route.ways() == LANES
    (one,) = KINDS["pipeline"].routes
    assert one.turn(7) is None
    assert one.ways() == (one.lane(7),) == (m.Lane((0,), (BUNDLE,), 2),)


@pytest.mark.parametrize("turns", [0, -1])
def test_a_route_without_turns_is_refused_though_no_lane_is_missing(turns: int) -> None:
    with pytest.raises(ValueError, match="turns: expected 1 to 256"):
        m.Route("1-0123abcd", "active", 1.0, (), 0, turns, ())
