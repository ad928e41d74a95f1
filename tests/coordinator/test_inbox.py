"""What the coordinator hears: anything on any topic gives actions or a ProtocolError, nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.actions import Clear, Respond
from coordinator.inbox import Inbox, OutrankedError, stamp_of
from slicemq.errors import CoordinatorError, ProtocolError
from slicemq.messages import Artifact, Assignment, Beat, CoordinatorState, Request, Stamp, encode
from slicemq.operations import Mirror
from tests.coordinator.site import TOPICS, Board, Site, capacity, intent
from tests.coordinator.test_store import JSON, places

OWN = "a" * 16
MODEL = {"sha256": intent().model.sha256, "size": 1000}


def scene(*, start: bool = True) -> tuple[Site, Inbox]:
    site = Site(Board("pi-1"))
    if start:
        site.start()
    return site, Inbox(TOPICS, site.cluster, OWN)


def hear(inbox: Inbox, topic: str, payload: bytes, *, retained: bool = False) -> list[Any]:
    return list(inbox.read(1001.0, topic, payload, retained))


def asked(inbox: Inbox, verb: str, body: dict[str, Any], transaction: str = "t1") -> list[Any]:
    return hear(inbox, TOPICS.request("cli-1", verb), encode(Request(transaction, body)))


def documents() -> dict[str, bytes]:
    """One good document for each topic that is listened to."""
    board = Board("pi-1")
    board.life, board.states = 1, {("faces", "1-00000000", "s0"): "ready"}
    deploy = {"name": "faces", "model": MODEL, "options": {"pins": {"s0": "pi-1"}}}
    return {
        TOPICS.node("pi-1", "state"): encode(board.state()),
        TOPICS.node("pi-1", "capacity"): encode(capacity("pi-1", board.epoch)),
        TOPICS.node("pi-1", "heartbeat"): encode(board.beat()),
        TOPICS.node("pi-1", "report"): encode(board.report()),
        TOPICS.request("cli-1", "deploy"): encode(Request("t1", deploy)),
        TOPICS.request("cli-1", "undeploy"): encode(Request("t2", {"name": "faces"})),
        TOPICS.request("cli-1", "attach"): encode(Request("t3", {"pipeline": "faces"})),
        TOPICS.request("cli-1", "detach"): encode(Request("t4", {"pipeline": "faces"})),
        TOPICS.request("cli-1", "drain"): encode(Request("t5", {"node": "pi-1"})),
        TOPICS.request("cli-1", "pin"): encode(Request("t6", {"pipeline": "faces", "slice": "s0", "node": "pi-1"})),
        TOPICS.coordinator: encode(CoordinatorState("ready", Stamp(1, "0" * 16, 1), 0.0, "0")),
        TOPICS.coordinator_marker: encode(Beat("b" * 16, 1)),
    }


TOPIC_NAMES = sorted(documents())


@pytest.mark.parametrize("topic", TOPIC_NAMES)
def test_good_documents_are_taken(topic: str) -> None:
    _, inbox = scene()
    hear(inbox, topic, documents()[topic])


@pytest.mark.parametrize("topic", TOPIC_NAMES)
@pytest.mark.parametrize("payload", [b"x", b"[]", b"{}", b"\xff", b'{"protocol": "9.0"}', b"[" * 100_000])
def test_malformed_and_foreign_documents_are_named_by_topic(topic: str, payload: bytes) -> None:
    _, inbox = scene()
    with pytest.raises(ProtocolError) as caught:
        hear(inbox, topic, payload)
    assert topic in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_payload_raises_anything_else(data: st.DataObject) -> None:
    _, inbox = scene(start=data.draw(st.booleans()))
    for _ in range(3):
        topic = data.draw(st.sampled_from(TOPIC_NAMES))
        body = json.loads(documents()[topic])
        container, key = data.draw(st.sampled_from(places(body)))
        container[key] = data.draw(JSON)
        try:
            hear(inbox, topic, json.dumps(body).encode(), retained=data.draw(st.booleans()))
        except (ProtocolError, CoordinatorError):
            continue
    inbox._cluster.tick(1002.0)


LEVEL = st.sampled_from(
    ["nodes", "pipelines", "requests", "coordinator", "plan", "assignment", "pi-1", "", "X", "+"]
)


@settings(max_examples=200, deadline=None)
@given(levels=st.lists(LEVEL, max_size=5), payload=st.sampled_from([b"", b"x", b"{}"]), retained=st.booleans())
def test_no_topic_raises_anything_else(levels: list[str], payload: bytes, retained: bool) -> None:
    for start in (False, True):
        _, inbox = scene(start=start)
        try:
            hear(inbox, "/".join([TOPICS.prefix, *levels]), payload, retained=retained)
        except ProtocolError:
            continue


def test_a_topic_of_another_cluster_and_another_nodes_document_are_refused() -> None:
    _, inbox = scene()
    with pytest.raises(ProtocolError, match="slicemq/v1/lab/"):
        hear(inbox, "slicemq/v1/other/coordinator", b"x")
    with pytest.raises(ProtocolError, match="field node: expected 'pi-2', got 'pi-1'"):
        hear(inbox, TOPICS.node("pi-2", "state"), documents()[TOPICS.node("pi-1", "state")])


@pytest.mark.parametrize(
    ("verb", "body", "text"),
    [
        ("deploy", {}, "field name"),
        ("deploy", {"name": "No"}, "field name"),
        ("deploy", {"name": "faces"}, "field model"),
        ("deploy", {"name": "faces", "model": {"sha256": "x", "size": 1}}, "field model"),
        ("deploy", {"name": "faces", "model": MODEL, "plan": []}, "field plan"),
        ("deploy", {"name": "faces", "model": MODEL, "options": None}, "field options"),
        ("deploy", {"name": "faces", "model": MODEL, "calibration": "x"}, "field calibration"),
        ("deploy", {"name": "faces", "model": MODEL, "calibration": {"sha256": "x", "size": 1}}, "calibration"),
        ("deploy", {"name": "faces", "model": MODEL, "calibration": {**MODEL, "size": 10**8}}, "at most 32000000"),
        ("undeploy", {"name": 7}, "field name"),
        ("reboot", {}, "expected one of deploy, undeploy, rollout, attach, detach"),
    ],
)
def test_a_wrong_request_is_answered_with_what_was_expected(verb: str, body: dict[str, Any], text: str) -> None:
    _, inbox = scene()
    answers = [action.response for action in asked(inbox, verb, body) if isinstance(action, Respond)]
    assert [answer.transaction for answer in answers] == ["t1"]
    assert text in answers[0].error
    assert answers[0].exit_code != 0


def test_a_request_may_name_a_calibration_set() -> None:
    cases: list[tuple[dict[str, Any], Artifact | None]] = [
        ({"calibration": MODEL}, intent().model),
        ({"calibration": None}, None),
        ({}, None),
    ]
    for number, (more, expected) in enumerate(cases):
        site, inbox = scene()
        asked(inbox, "deploy", {"name": "faces", "model": MODEL, **more}, f"t{number}")
        wish = site.record().job_wish
        assert wish is not None
        assert wish.intent.calibration == expected


def test_requests_wait_for_the_start_and_documents_are_kept_until_then() -> None:
    """Rule 23."""
    _, inbox = scene(start=False)
    assert asked(inbox, "undeploy", {"name": "faces"}) == []
    hear(inbox, TOPICS.pipeline("faces"), b"kept as it is", retained=True)
    hear(inbox, TOPICS.pipeline("birds"), b"not retained")
    hear(inbox, TOPICS.pipeline("gone"), b"", retained=True)
    assert inbox.retained == {TOPICS.pipeline("faces"): b"kept as it is"}
    inbox.forget_retained()
    assert inbox.retained == {}


@pytest.mark.parametrize(
    ("instance", "term", "text"),
    [
        ("b" * 16, 3, "another coordinator .bbbbbbbb. is active in cluster lab.*--standby"),
        ("b" * 16, 0, None),
        ("0" * 16, 0, "another coordinator .00000000. is starting in cluster lab"),
        (OWN, 0, None),
    ],
)
def test_one_that_starts_gives_way(instance: str, term: int, text: str | None) -> None:
    """Rule 22: to one that coordinates, and to one that starts as well and has the lower instance."""
    _, inbox = scene(start=False)
    beat = encode(Beat(instance, 1, term))
    if text is None:
        hear(inbox, TOPICS.coordinator_marker, beat)
    else:
        with pytest.raises(OutrankedError, match=text):
            hear(inbox, TOPICS.coordinator_marker, beat)


def one_of_each_kind(term: int, instance: str) -> dict[str, bytes]:
    """Documents that only a coordinator writes."""
    stamp = Stamp(term, instance, 1)
    return {
        TOPICS.coordinator: encode(CoordinatorState("ready", stamp, 0.0, "0")),
        TOPICS.coordinator_marker: encode(Beat(instance, 1, term)),
        TOPICS.mirror: encode(Mirror(stamp, intent().model)),
        TOPICS.node("pi-1", "assignment"): encode(Assignment("pi-1", stamp, ())),
        TOPICS.pipeline("faces"): json.dumps({"stamp": {"term": term, "instance": instance}}).encode(),
    }


@pytest.mark.parametrize("topic", sorted(one_of_each_kind(1, "")))
@pytest.mark.parametrize(
    ("above", "instance", "stays"),
    [(-1, "f" * 16, True), (0, "0" * 16, True), (0, "b" * 16, False), (1, "0", False)],
)
def test_one_that_coordinates_stops_for_a_higher_term_only(
    topic: str, above: int, instance: str, stays: bool
) -> None:
    """Rules 21 and 22: on whatever topic it shows itself; among equal terms the higher instance stays."""
    site, inbox = scene()
    payload = one_of_each_kind(site.cluster.term + above, instance)[topic]
    if stays:
        hear(inbox, topic, payload)
    else:
        with pytest.raises(OutrankedError, match="has taken over cluster lab"):
            hear(inbox, topic, payload)


@pytest.mark.parametrize("topic", sorted(one_of_each_kind(1, "")))
def test_rule_21_a_new_term_exceeds_those_of_all_documents(topic: str) -> None:
    if topic == TOPICS.coordinator_marker:
        return
    site, inbox = scene(start=False)
    hear(inbox, topic, one_of_each_kind(41, "b" * 16)[topic], retained=True)
    site.start()
    assert site.cluster.term == 42


@pytest.mark.parametrize("retained", [False, True])
def test_rule_17_an_unknown_document_of_its_own_kind_is_removed_however_it_comes(retained: bool) -> None:
    """One that comes live is kept by the broker, too, and no later connection may come that finds it."""
    _, inbox = scene()
    ghost, payload = TOPICS.pipeline("ghost"), one_of_each_kind(0, "a" * 16)[TOPICS.pipeline("faces")]
    assert hear(inbox, ghost, payload, retained=retained) == [Clear(ghost)]


def test_the_mirror_is_not_cleared_as_an_unknown_document() -> None:
    """It is published while there is a standby; after each connection it comes as a retained one."""
    site, inbox = scene()
    assert hear(inbox, TOPICS.mirror, one_of_each_kind(site.cluster.term, OWN)[TOPICS.mirror], retained=True) == []


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"{", b"[]", b"{}", b'{"stamp": 1}', b"[" * 100_000, b" " * 5_000_000),
        b'{"stamp": {"term": true, "instance": "b"}}',
        b'{"stamp": {"term": -1, "instance": "b"}}',
        b'{"stamp": {"term": 1, "instance": 2}}',
        b'{"stamp": {"term": 9223372036854775808, "instance": "b"}}',
    ],
)
def test_what_has_no_sound_stamp_outranks_nobody(payload: bytes) -> None:
    assert stamp_of(payload) is None


def test_own_beats_are_known() -> None:
    _, inbox = scene()
    assert inbox.is_own_beat(TOPICS.coordinator_marker, encode(Beat(OWN, 1)))
    assert not inbox.is_own_beat(TOPICS.coordinator_marker, encode(Beat("b" * 16, 1)))
    assert not inbox.is_own_beat(TOPICS.coordinator, b"x")
