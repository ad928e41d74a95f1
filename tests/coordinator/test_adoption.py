"""Running pipelines taken over from retained documents: whole ones only, and never an exception."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.adoption import adopt_running, catch_up
from coordinator.documents import assignment, pipeline_document
from coordinator.intents import PipelineRecord
from slicemq.messages import Assignment, PipelineDocument, PlanDocument, Stamp, encode
from tests.coordinator.site import TOPICS, blueprint, intent, sha
from tests.coordinator.test_store import JSON, places

REVISION = "6-0123abcd"
STAMP = Stamp(3, "a" * 16, 1)


def retained() -> dict[str, bytes]:
    wanted = intent()
    made = blueprint(wanted, ["pi-1", "pi-2"])
    rows = [
        {"id": "s0", "compute_ms": 5.0, "down_ms": 9.0, "up_ms": 1.0},
        {"id": "s1", "compute_ms": 7.0, "down_ms": 2.0, "up_ms": 1.0},
    ]
    route = {**json.loads(encode(made.route)), "revision": REVISION}
    documents: dict[str, Any] = {
        TOPICS.plan("faces"): PlanDocument("faces", STAMP, REVISION, wanted.model, {"slices": rows}),
        TOPICS.pipeline("faces"): PipelineDocument(
            "faces", STAMP, "running", "", sha("m1"), made.spec, made.inputs, made.outputs, (), 4, 1, 2
        ),
    }
    for node, items in made.slices.items():
        slices = tuple(type(i)(**{**i.__dict__, "revision": REVISION}) for i in items)
        documents[TOPICS.node(node, "assignment")] = Assignment(node, STAMP, slices)
    payloads = {topic: encode(document) for topic, document in documents.items()}
    pipeline = json.loads(payloads[TOPICS.pipeline("faces")])
    pipeline["routes"] = [route]
    payloads[TOPICS.pipeline("faces")] = json.dumps(pipeline).encode()
    return payloads


def changed(topic: str, **fields: Any) -> list[PipelineRecord]:
    documents = retained()
    documents[topic] = json.dumps({**json.loads(documents[topic]), **fields}).encode()
    return adopt_running(TOPICS, documents, 0.0)


def test_a_whole_pipeline_is_taken_over() -> None:
    (record,) = adopt_running(TOPICS, retained(), 50.0)
    assert (record.name, record.highest, record.resend) == ("faces", 6, 2)
    assert record.active is not None
    assert record.active.id == REVISION
    assert record.active.nodes == {"pi-1", "pi-2"}
    assert record.intent is not None
    assert record.intent.model.sha256 == sha("m1")
    assert not record.active.blueprint.stateful


def test_a_stateful_pipeline_stays_one() -> None:
    (record,) = changed(TOPICS.pipeline("faces"), stateful=True, window=1)
    assert record.active is not None
    assert (record.active.blueprint.stateful, record.active.blueprint.window) == (True, 1)


def test_a_stage_takes_as_long_as_planning_said_its_link_included() -> None:
    (record,) = adopt_running(TOPICS, retained(), 0.0)
    assert record.face is not None
    assert record.face.stage_seconds == {"s0": 0.009, "s1": 0.007}


def test_what_is_not_whole_is_left_out() -> None:
    for topic in retained():
        documents = retained()
        del documents[topic]
        assert adopt_running(TOPICS, documents, 0.0) == [], topic


def test_documents_of_another_owner_or_content_are_left_out() -> None:
    pipeline, plan, node = TOPICS.pipeline("faces"), TOPICS.plan("faces"), TOPICS.node("pi-1", "assignment")
    assert changed(pipeline, name="birds") == []
    assert changed(plan, name="birds") == []
    assert changed(node, node="pi-9") == []
    assert changed(pipeline, state="removed") == []
    assert changed(plan, revision="5-0123abcd") == []
    assert changed(plan, plan={"slices": "all"}) == []
    wrong: Any
    for wrong in (None, [], "fast", -1.0, True):
        assert changed(plan, plan={"slices": [{"id": "s0", "compute_ms": wrong}, {"id": "s1"}]}) == [], wrong
    assert adopt_running(TOPICS, {**retained(), "other/topic": b"x"}, 0.0) != []


def replicated() -> dict[str, bytes]:
    """The same, the second slice on two nodes in turns."""
    documents = {topic: json.loads(payload) for topic, payload in retained().items()}
    pipeline, plan = documents[TOPICS.pipeline("faces")], documents[TOPICS.plan("faces")]
    (route,) = pipeline["routes"]
    lane = {"turns": [0, 1, 2], "entry": route["entry"], "parts": 1}
    route.update(entry=[], parts=0, turns=3, lanes=[lane])
    plan["plan"]["slices"][1]["turns"] = [[0, 2], [1]]
    (one,) = documents[TOPICS.node("pi-1", "assignment")]["slices"]
    one.update(turns=[0, 1, 2], of=3)
    second = documents[TOPICS.node("pi-2", "assignment")]
    second["slices"][0].update(turns=[0, 2], of=3)
    replica = {**second["slices"][0], "turns": [1]}
    documents[TOPICS.node("pi-3", "assignment")] = {**second, "node": "pi-3", "slices": [replica]}
    return {topic: json.dumps(body).encode() for topic, body in documents.items()}


def test_replicas_are_taken_over_when_all_of_them_are_there() -> None:
    (record,) = adopt_running(TOPICS, replicated(), 0.0)
    assert record.active is not None
    assert record.active.nodes == {"pi-1", "pi-2", "pi-3"}
    assert record.active.blueprint.route.turns == 3
    for topic in replicated():
        documents = replicated()
        del documents[topic]
        assert adopt_running(TOPICS, documents, 0.0) == [], topic
    wrong: Any
    for wrong in (5, [5], [[0], [1]], [[0, 1], [1, 2]], [["0", 2], [1]], [None]):
        documents = replicated()
        plan = json.loads(documents[TOPICS.plan("faces")])
        plan["plan"]["slices"][1]["turns"] = wrong
        documents[TOPICS.plan("faces")] = json.dumps(plan).encode()
        assert adopt_running(TOPICS, documents, 0.0) == [], wrong


CANARY = "7-89abcdef"


def during_a_canary() -> dict[str, bytes]:
    """The same with a canary of one slice, on a node of its own."""
    documents = retained()
    pipeline = json.loads(documents[TOPICS.pipeline("faces")])
    (route,) = pipeline["routes"]
    pipeline["routes"] = [{**route, "revision": CANARY, "weight": 0.25}, {**route, "weight": 0.75}]
    documents[TOPICS.pipeline("faces")] = json.dumps(pipeline).encode()
    (items,) = blueprint(intent(model="m2"), ["pi-3"]).slices.values()
    slices = tuple(replace(item, revision=CANARY) for item in items)
    documents[TOPICS.node("pi-3", "assignment")] = encode(Assignment("pi-3", STAMP, slices))
    return documents


def test_of_two_active_routes_the_heavier_serves_and_the_canary_is_lost() -> None:
    """Rule 8: clients send what they sent to a lost route again at once."""
    (record,) = adopt_running(TOPICS, during_a_canary(), 50.0)
    assert record.active is not None
    assert (record.active.id, record.highest) == (REVISION, 7)
    assert record.active.nodes == {"pi-1", "pi-2"}
    assert record.rollout is None
    document = pipeline_document(record)
    assert document is not None
    routes = {route.revision: (route.state, route.weight) for route in document.routes}
    assert routes == {REVISION: ("active", 1.0), CANARY: ("lost", 0.0)}
    # Its slices end: nothing of it is assigned any more.
    assert assignment("pi-3", [record]).slices == ()
    assert {item.revision for item in assignment("pi-1", [record]).slices} == {REVISION}


def test_two_active_routes_without_the_plan_of_the_heavier_are_left_out() -> None:
    documents = during_a_canary()
    plan = json.loads(documents[TOPICS.plan("faces")])
    documents[TOPICS.plan("faces")] = json.dumps({**plan, "revision": CANARY}).encode()
    assert adopt_running(TOPICS, documents, 0.0) == []


def test_a_store_that_has_not_heard_of_a_canary_tells_clients_that_it_is_lost() -> None:
    """A standby's store may lack the last moments of the coordinator before it."""
    (stored,) = adopt_running(TOPICS, retained(), 0.0)
    (seen,) = adopt_running(TOPICS, during_a_canary(), 0.0)
    assert catch_up(stored, seen, 1e9)
    assert not catch_up(stored, seen, 1e9)
    assert stored.active is not None
    assert stored.active.id == REVISION
    assert [one.id for one in stored.in_phase("lost")] == [CANARY]
    assert stored.highest == 7


def test_a_store_in_which_the_canary_only_prepares_tells_clients_that_it_is_lost() -> None:
    """Its number is stored when it begins to prepare."""
    (stored,) = adopt_running(TOPICS, retained(), 0.0)
    (seen,) = adopt_running(TOPICS, during_a_canary(), 0.0)
    stored.highest = 7
    assert catch_up(stored, seen, 1e9)
    assert [one.id for one in stored.in_phase("lost")] == [CANARY]
    (later,) = adopt_running(TOPICS, retained(), 0.0)
    later.highest = 8
    assert not catch_up(later, seen, 1e9)


def test_a_store_that_knows_a_canary_goes_on_with_it() -> None:
    (stored,) = adopt_running(TOPICS, retained(), 0.0)
    (seen,) = adopt_running(TOPICS, during_a_canary(), 0.0)
    known = seen.revisions[CANARY]
    stored.revisions[CANARY], stored.highest = replace(known, phase="canary"), 7
    assert not catch_up(stored, seen, 1e9)
    assert [one.id for one in stored.in_phase("canary")] == [CANARY]
    assert stored.in_phase("lost") == []


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_nothing_retained_raises(data: st.DataObject) -> None:
    documents = data.draw(st.sampled_from([retained, replicated, during_a_canary]))()
    topic = data.draw(st.sampled_from(sorted(documents)))
    body = json.loads(documents[topic])
    container, key = data.draw(st.sampled_from(places(body)))
    container[key] = data.draw(JSON)
    documents[topic] = data.draw(st.binary(max_size=20)) if data.draw(st.booleans()) else json.dumps(body).encode()
    assert len(adopt_running(TOPICS, documents, 0.0)) <= 1
