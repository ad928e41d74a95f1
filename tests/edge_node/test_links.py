"""The links of a slice to several brokers: each topic on its own; up when all are, down when one is (rule 11)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from edge_node import links
from edge_node.databroker import DataBrokerWatch
from edge_node.links import Links, broker_by_topic
from emulator.brokers import Mosquitto
from slicemq.datalink import DataLink, open_link
from slicemq.errors import BrokerError, BrokerRefusedError, ConfigError
from slicemq.messages import Artifact, Bundle, SliceAssignment, TensorSpec
from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.options import BrokerOptions
from slicemq.topics import Topics
from tests.waiting import eventually

TOPICS = Topics("lab")
SPEC = (TensorSpec(1, "t", "float32", (1,)),)


def assignment(url: str, turns: int = 1) -> SliceAssignment:
    """Takes b0 and gives b3 over the main broker; takes b1 and gives b2 over that of a board."""
    return SliceAssignment(
        pipeline="faces",
        revision="1-0123abcd",
        slice="s0",
        artifact=Artifact("ab" * 32, 1),
        memory=1,
        takes=(1,),
        gives=(1,),
        inputs=(Bundle("b0", SPEC), Bundle("b1", SPEC, broker="n1")),
        outputs=(Bundle("b2", SPEC, broker="n1"), Bundle("b3", SPEC)),
        turns=tuple(range(turns)),
        of=turns,
        brokers={"n1": url},
    )


def topic(bundle: str) -> str:
    return TOPICS.data("faces", "1-0123abcd", bundle)


@pytest.fixture
def brokers() -> Iterator[tuple[Mosquitto, Mosquitto]]:
    """The main broker, and that of a board."""
    with Mosquitto() as main, Mosquitto() as board:
        yield main, board


def opened(broker: Mosquitto, got: list[str], *topics: str) -> DataLink:
    link = open_link(broker.options, f"other-{secrets.token_hex(4)}", on_frame=lambda name, _: got.append(name))
    link.subscribe(topics)
    link.start()
    link.wait_up(10.0)
    return link


def test_each_topic_travels_over_the_broker_of_its_bundle(brokers: tuple[Mosquitto, Mosquitto]) -> None:
    main, board = brokers
    got: list[str] = []
    on_main: list[str] = []
    on_board: list[str] = []
    every = [topic(name) for name in ("b0", "b1", "b2", "b3")]
    mine = Links("n1", TOPICS, assignment(board.url), main.options, lambda name, _: got.append(name))
    others = [opened(main, on_main, *every[2:]), opened(board, on_board, *every[2:])]
    try:
        mine.subscribe(every[:2])
        mine.start()
        mine.wait_up(10.0)
        assert mine.up
        for link in others:
            for name in every[:2]:
                assert link.send(name, [b"frame"])
        eventually(lambda: len(got) == 2)
        assert sorted(got) == every[:2], "b0 from the main broker and b1 from the board, each once"
        for name in every[2:]:
            assert mine.send(name, [b"frame"])
        assert mine.send(TOPICS.results("faces", "client"), [b"result"])
        eventually(lambda: on_board and on_main)
        assert (on_board, on_main) == ([topic("b2")], [topic("b3")])
        board.kill()
        eventually(lambda: not mine.up)
        assert mine.down() == (board.url,)
        with pytest.raises(BrokerError):
            mine.wait_up(0.1)
        assert not mine.send(topic("b2"), [b"frame"]), "dropped: the client sends it again"
        assert mine.send(topic("b3"), [b"frame"])
        board.start()
        mine.wait_up(20.0)
    finally:
        mine.stop()
        for link in others:
            link.stop()


def test_a_frame_larger_than_any_right_one_takes_no_memory(
    brokers: tuple[Mosquitto, Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    main, board = brokers
    sizes: list[int] = []
    mine = Links("n1", TOPICS, assignment(board.url), main.options, lambda _, payload: sizes.append(len(payload)))
    other = opened(main, [])
    try:
        mine.subscribe([topic("b0")])
        mine.start()
        mine.wait_up(10.0)
        most = links.largest_frame(assignment(board.url))
        for size in (most + 1, 20_000_000, most):
            assert other.send(topic("b0"), [bytes(size)])
        eventually(lambda: sizes)
        assert sizes == [most]
        assert f"a frame of {most + 1} bytes skipped: at most {most} bytes are accepted" in caplog.text
    finally:
        mine.stop()
        other.stop()


def test_sizes_that_a_specification_leaves_open_bound_no_frame() -> None:
    open_size = replace(assignment("mqtt://n1"), inputs=(Bundle("b0", (TensorSpec(1, "t", "float32", (1, -1)),)),))
    assert links.largest_frame(open_size) == MAX_PAYLOAD


def test_a_data_broker_that_never_answers_fails_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "ANSWER_SECONDS", 0.3)
    absent = Mosquitto()
    with Mosquitto() as main:
        mine = Links("n1", TOPICS, assignment(absent.url), main.options, lambda *_: None)
        mine.start()
        found: list[Exception] = []

        def failed() -> bool:
            try:
                mine.wait_up(0.1)
            except BrokerRefusedError as error:
                found.append(error)
                return True
            except BrokerError:
                return False
            return False

        try:
            eventually(failed)
            assert "the data broker of node n1" in str(found[0])
        finally:
            mine.stop()
            absent.close()


def test_the_password_goes_to_no_broker_without_tls() -> None:
    main = BrokerOptions(tls=True, username="pi", password="hush")
    with pytest.raises(ConfigError, match=r"data broker mqtt://n1\.local: expected mqtts://") as caught:
        Links("n1", TOPICS, assignment("mqtt://n1.local"), main, lambda *_: None)
    assert "hush" not in str(caught.value)


def test_turns_have_topics_of_their_own() -> None:
    found = broker_by_topic(TOPICS, assignment("mqtt://n1.local", turns=2))
    assert found == {f"{topic(bundle)}/{turn}": broker for turn in (0, 1) for bundle, broker in EXPECTED.items()}


EXPECTED = {"b0": "", "b1": "n1", "b2": "n1", "b3": ""}


def test_a_watch_sees_its_broker_go_and_come_back() -> None:
    times: Any = iter(range(1000))
    with Mosquitto() as board:
        watch = DataBrokerWatch(board.options, "n1", TOPICS.link_probe("n1-databroker"))
        try:
            assert watch.start()
            board.kill()
            eventually(lambda: not watch.look(next(times)))
            board.start()
            eventually(lambda: watch.look(next(times)), 20.0)
        finally:
            watch.stop()
