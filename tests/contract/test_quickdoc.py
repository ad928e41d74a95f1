"""The quick way to read documents takes what `decode` takes, gives what it gives, and refuses what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicemq import messages as m
from slicemq.errors import ProtocolError
from slicemq.jsondoc import decode
from slicemq.quickdoc import _reader_of, decode_quickly
from tests.contract.test_messages import KINDS
from tests.coordinator.test_store import JSON, places

TOPIC = "slicemq/v1/lab/nodes/pi-1/heartbeat"
QUICK = (m.Heartbeat, m.NodeState, m.Report, m.Capacity, m.Beat, m.Assignment)
NAMES = sorted(name for name, document in KINDS.items() if isinstance(document, QUICK))


def outcome(read: Any, kind: type[Any], payload: bytes) -> Any:
    try:
        return read(kind, payload, TOPIC)
    except ProtocolError as error:
        return type(error), str(error)


@pytest.mark.parametrize("kind", QUICK)
def test_what_comes_by_the_thousand_is_read_quickly(kind: type[Any]) -> None:
    assert _reader_of(kind) is not None


def test_other_documents_are_left_to_decode() -> None:
    assert _reader_of(m.Request) is None
    request = m.Request("t1", {"a": [1]})
    assert decode_quickly(m.Request, m.encode(request), TOPIC) == request


@pytest.mark.parametrize("name", NAMES)
def test_good_documents(name: str) -> None:
    document = KINDS[name]
    assert decode_quickly(type(document), m.encode(document), TOPIC) == document


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"{}", b"null", b'{"protocol": "2.0"}', b"[" * 100_000, b"\xff"]
)
@pytest.mark.parametrize("kind", QUICK)
def test_what_is_no_document(kind: type[Any], payload: bytes) -> None:
    assert outcome(decode_quickly, kind, payload) == outcome(decode, kind, payload)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_stands_at_any_place_is_judged_alike(data: st.DataObject) -> None:
    document = KINDS[data.draw(st.sampled_from(NAMES))]
    body = json.loads(m.encode(document))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(body)))
        if data.draw(st.booleans()):
            container[key] = data.draw(JSON)
        else:
            del container[key]
        if not places(body):
            break
    payload = json.dumps(body).encode()
    quick, plain = outcome(decode_quickly, type(document), payload), outcome(decode, type(document), payload)
    assert quick == plain
    # 1 == 1.0 == True in Python, and not so in a document.
    assert repr(quick) == repr(plain)
