"""The shipped mosquitto.conf: it loads, each line has its reason, and each setting does what it is there for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.brokers import MOSQUITTO_CONF, Mosquitto
from slicemq.datalink import open_link
from slicemq.session import Session
from slicemq.topics import Topics
from tests.waiting import eventually

REPOSITORY = Path(__file__).parents[2]


def settings() -> list[str]:
    """The names of the settings of the file, in its order."""
    lines = MOSQUITTO_CONF.read_text().splitlines()
    return [line.split()[0] for line in lines if re.match(r"[a-z_]+( |$)", line)]


@pytest.fixture
def running() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


def test_it_loads_without_an_error(running: Mosquitto) -> None:
    assert "Error" not in running.log.read_text()
    assert "running" in running.log.read_text()


def test_each_setting_has_a_reason_in_the_file_and_a_row_in_the_reference() -> None:
    lines = MOSQUITTO_CONF.read_text().splitlines()
    blocks = "\n".join(lines).split("\n\n")
    for name in settings():
        if name == "protocol":
            continue
        block = next(block for block in blocks if re.search(rf"^{name}\b", block, re.MULTILINE))
        assert block.startswith("# "), f"{name} without a reason"
    reference = (REPOSITORY / "docs/reference/broker-settings.md").read_text()
    for name in settings():
        assert f"`{name}" in reference, f"docs/reference/broker-settings.md lacks {name}"


def session(broker: Mosquitto, name: str, *filters: str, seen: list[bytes] | None = None) -> Session:
    found = Session(
        broker.options,
        name,
        on_message=lambda topic, payload, retained: None if seen is None else seen.append(payload),
    )
    found.subscribe(*filters)
    found.start()
    found.wait_up(10)
    return found


@pytest.mark.parametrize(("replace", "complete"), [(None, True), ({"max_queued_messages 100000": ""}, False)])
def test_two_thousand_retained_documents_reach_a_subscriber(replace: dict[str, str] | None, complete: bool) -> None:
    """They do with the shipped limits, and with mosquitto's own some are dropped: the setting is what does it."""
    topics = Topics("many")
    # Saving after each of two thousand changes is not what this test is about.
    swaps = {"autosave_on_changes true": ""} | (replace or {})
    with Mosquitto(replace=swaps) as broker:
        writer = session(broker, "writer")
        for number in range(2000):
            assert writer.publish(topics.node(f"n{number}", "state"), b"%d" % number, retain=True)
        eventually(lambda: len(writer.snapshot(f"{topics.prefix}/nodes/#")) == 2000, timeout=20)
        seen: list[bytes] = []
        reader = session(broker, "reader", f"{topics.prefix}/nodes/#", f"{topics.prefix}/probe/end", seen=seen)
        reader.publish(f"{topics.prefix}/probe/end", b"end")
        eventually(lambda: len(seen) > 1900 if complete else len(seen) > 900, timeout=20)
        if complete:
            eventually(lambda: b"end" in seen)
        assert (len(set(seen) - {b"end"}) == 2000) == complete
        writer.stop()
        reader.stop()


def test_frames_of_sixteen_megabytes_pass(running: Mosquitto) -> None:
    topic = Topics("big").data("p", "1-00000000", "b0")
    sizes: list[int] = []
    link = open_link(running.options, "a", on_frame=lambda _, payload: sizes.append(len(payload)))
    link.subscribe([topic])
    link.start()
    link.wait_up(10)
    for _ in range(3):
        assert link.send(topic, [bytes(16_000_000)])
    eventually(lambda: sizes == [16_000_000] * 3, timeout=20)
    link.stop()


@pytest.mark.parametrize("saved", [True, False])
def test_after_sigkill_the_last_document_is_there_and_cleared_ones_are_not(saved: bool) -> None:
    """With the shipped settings; without saving on every change an old state comes back, or none."""
    topics = Topics("kill")
    swaps = {} if saved else {"autosave_on_changes true": "", "autosave_interval 1": "autosave_interval 1800"}
    with Mosquitto(replace=swaps) as broker:
        writer = session(broker, "writer")
        for payload in (b"old", b"new"):
            writer.publish(topics.node("n", "state"), payload, retain=True)
        writer.publish(topics.node("gone", "state"), b"old", retain=True)
        writer.publish(topics.node("gone", "state"), b"", retain=True)
        expected = {topics.node("n", "state"): b"new"}
        eventually(lambda: writer.snapshot(f"{topics.prefix}/nodes/#") == expected)
        writer.stop()
        broker.restart()
        reader = session(broker, "reader")
        assert (reader.snapshot(f"{topics.prefix}/nodes/#") == expected) == saved
        reader.stop()
