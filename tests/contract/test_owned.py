"""When an owned document is published again (protocol rule 17), without a broker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slicemq.owned import OwnedDocuments


def owner(*payloads: bytes) -> OwnedDocuments:
    documents = OwnedDocuments()
    for payload in payloads:
        documents.set("t", payload)
        documents.sent("t", 0.0)
    return documents


def test_own_echoes_are_not_foreign() -> None:
    documents = owner(b"1", b"2", b"3")
    for payload in (b"1", b"2", b"3"):
        assert not documents.received("t", payload, 0.1)
    assert documents.next_time() is None


def test_echoes_of_the_same_document_before_and_after() -> None:
    documents = owner(b"1", b"2", b"1")
    for payload in (b"1", b"2", b"1"):
        assert not documents.received("t", payload, 0.1)


def test_foreign_content_before_the_echo_is_replaced_by_our_own_publish() -> None:
    documents = owner(b"1")
    assert not documents.received("t", b"late will", 0.1)
    assert not documents.received("t", b"1", 0.2)
    assert documents.next_time() is None


def test_foreign_content_is_healed_when_no_echo_comes() -> None:
    """Ours and the will came to the broker before the subscription did; it gives the will only."""
    documents = owner(b"1")
    assert not documents.received("t", b"late will", 0.1)
    due = documents.next_time()
    assert due is not None
    assert documents.due(due) == [("t", b"1")]
    documents.sent("t", due)
    assert not documents.received("t", b"1", due + 0.1)
    assert documents.next_time() is None


def test_foreign_content_after_the_echo_is_healed_at_once() -> None:
    documents = owner(b"1")
    documents.received("t", b"1", 0.1)
    assert documents.received("t", b"late will", 5.0)
    assert documents.due(5.0) == [("t", b"1")]
    documents.sent("t", 5.0)
    assert not documents.received("t", b"1", 5.1)
    assert documents.due(9.0) == []


def test_a_cleared_topic_is_foreign_content() -> None:
    documents = owner(b"1")
    documents.received("t", b"1", 0.1)
    assert documents.received("t", b"", 1.0)


def test_an_older_document_that_comes_back_is_foreign() -> None:
    documents = owner(b"1", b"2")
    documents.received("t", b"1", 0.1)
    documents.received("t", b"2", 0.1)
    assert documents.received("t", b"1", 5.0)


def test_a_lost_echo_does_not_hide_foreign_content_for_ever() -> None:
    documents = owner(b"1")
    assert documents.received("t", b"late will", 60.0)


def test_the_right_content_ends_the_need_to_heal() -> None:
    documents = owner(b"1")
    documents.received("t", b"1", 0.0)
    documents.received("t", b"x", 1.0)
    documents.received("t", b"1", 1.0)
    assert documents.due(2.0) == []


def test_two_writers_get_ever_slower() -> None:
    documents = owner(b"ours")
    documents.received("t", b"ours", 0.0)
    now, healings = 0.0, 0
    while now < 60.0:
        documents.received("t", b"theirs", now)
        if documents.due(now):
            healings += 1
            documents.sent("t", now)
            documents.received("t", b"ours", now)
        now += 0.01
    assert 10 < healings < 30


def test_a_publish_that_failed_is_tried_again() -> None:
    documents = OwnedDocuments()
    documents.set("t", b"1")
    documents.sent("t", 0.0, done=False)
    assert documents.due(0.0) == []
    assert documents.due(documents.next_time() or 0.0) == [("t", b"1")]


def test_a_new_connection_publishes_all_in_order() -> None:
    documents = owner(b"1")
    documents.set("u", b"2")
    documents.set("t", b"3")
    assert documents.restart() == [("t", b"3"), ("u", b"2")]
    assert documents.drop("t")
    assert not documents.drop("t")
    assert documents.restart() == [("u", b"2")]
    assert not documents.received("t", b"x", 1.0)


@given(st.lists(st.one_of(st.binary(max_size=1), st.none()), max_size=30))
def test_the_broker_ends_with_our_document(steps: list[bytes | None]) -> None:
    """Whatever is written by whom in which order: once all has arrived and healed, the broker holds ours."""
    documents, now, counter = OwnedDocuments(), 0.0, 0
    retained = b""
    arriving: list[bytes] = []

    def publish() -> None:
        nonlocal retained
        retained = ours
        arriving.append(ours)
        documents.sent("t", now)

    ours = b"0"
    documents.set("t", ours)
    publish()
    for step in [*steps, *[None] * 60]:
        now += 0.5
        if step is None and arriving:
            documents.received("t", arriving.pop(0), now)
        elif step == b"\x00":
            counter += 1
            ours = str(counter).encode()
            documents.set("t", ours)
            publish()
        elif step is not None:
            retained = b"foreign" + step
            arriving.append(retained)
        for _ in documents.due(now):
            publish()
    while arriving or documents.next_time() is not None:
        now += 6.0
        if arriving:
            documents.received("t", arriving.pop(0), now)
        for _ in documents.due(now):
            publish()
    assert retained == ours
