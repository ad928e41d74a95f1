"""Topics and ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemq.errors import ProtocolError, UsageError
from slicemq.topics import Topics, check_id, is_id, is_revision, is_sha256

TOPICS = Topics("lab")


@pytest.mark.parametrize("text", ["a", "0", "n1", "living-room-3", "a" * 64, "a-b"])
def test_ids(text: str) -> None:
    assert is_id(text)
    assert check_id("node", text) == text


@pytest.mark.parametrize(
    "text",
    ["", "A", "-a", "a-", "a" * 65, "a b", "a/b", "+", "#", "a\n", "a\0", "é", "a_b", "a.b", "request", "²", "٣"],
)
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)
    with pytest.raises(UsageError, match="node id"):
        check_id("node", text)
    with pytest.raises(UsageError, match="cluster id"):
        Topics(text)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("1-0123abcd", True),
        ("999999999999999999-ffffffff", True),
        ("0-0123abcd", False),
        ("01-0123abcd", False),
        ("1-0123ABCD", False),
        ("1-0123abc", False),
        ("1-0123abcde", False),
        ("1-0123abcd\n", False),
        ("-1-0123abcd", False),
        ("1000000000000000000-0123abcd", False),
        ("٣-0123abcd", False),
        ("", False),
    ],
)
def test_revisions(text: str, holds: bool) -> None:
    """Rule 1: `<n>-<8 hex>`."""
    assert is_revision(text) is holds


@pytest.mark.parametrize(
    ("text", "holds"),
    [("a" * 64, True), ("A" * 64, False), ("a" * 63, False), ("a" * 65, False), ("g" * 64, False)],
)
def test_sha256(text: str, holds: bool) -> None:
    assert is_sha256(text) is holds


@pytest.mark.parametrize(
    ("topic", "levels"),
    [
        (TOPICS.coordinator, ("coordinator",)),
        (TOPICS.coordinator_marker, ("coordinator", "marker")),
        (TOPICS.node("n1", "state"), ("nodes", "n1", "state")),
        (TOPICS.pipeline("faces"), ("pipelines", "faces")),
        (TOPICS.plan("faces"), ("pipelines", "faces", "plan")),
        (TOPICS.request("cli", "deploy"), ("requests", "cli", "deploy")),
        (TOPICS.response("cli"), ("responses", "cli")),
        (TOPICS.artifact_request("ab"), ("artifacts", "ab", "request")),
        (TOPICS.artifact_chunks("ab", "n1"), ("artifacts", "ab", "n1")),
        (TOPICS.data("faces", "1-0123abcd", "b0"), ("data", "faces", "1-0123abcd", "b0")),
        (TOPICS.data("faces", "1-0123abcd", "b0", 0), ("data", "faces", "1-0123abcd", "b0", "0")),
        (TOPICS.data("faces", "1-0123abcd", "b0", 12), ("data", "faces", "1-0123abcd", "b0", "12")),
        (TOPICS.results("faces", "cam"), ("results", "faces", "cam")),
        (TOPICS.link_probe("n1"), ("probe", "n1")),
    ],
)
def test_topics_are_built_and_parsed(topic: str, levels: tuple[str, ...]) -> None:
    assert topic == "slicemq/v1/lab/" + "/".join(levels)
    assert TOPICS.parts(topic) == levels


@pytest.mark.parametrize(
    "topic", ["", "slicemq", "slicemq/v1/lab", "slicemq/v2/lab/x", "slicemq/v1/labs/x", "$SYS/x"]
)
def test_a_topic_elsewhere_is_refused_by_name(topic: str) -> None:
    with pytest.raises(ProtocolError, match="slicemq/v1/lab/"):
        TOPICS.parts(topic)


@given(st.text(max_size=70))
def test_an_id_is_one_topic_level_without_wildcards(text: str) -> None:
    if is_id(text):
        assert not set(text) & set("/+#\0")
        assert text == text.lower()
        assert TOPICS.parts(TOPICS.node(text, "state"))[1] == text
