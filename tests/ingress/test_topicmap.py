"""From input topics to output topics; what devices choose leads nowhere it should not."""

from __future__ import annotations

import pytest

from ingress.topicmap import TopicMap
from slicemq.errors import UsageError


@pytest.mark.parametrize(
    ("source", "target", "topic", "answer"),
    [
        ("cam", "boxes", "cam", "boxes"),
        ("cams/+/image", "cams/{1}/boxes", "cams/door/image", "cams/door/boxes"),
        ("+/+/in", "out/{2}/{1}", "a/b/in", "out/b/a"),
        ("site/+/in/#", "site/{1}/out/{2}", "site/x/in/7/8", "site/x/out/7/8"),
        ("in/#", "out/{1}", "in", "out/"),
        ("cams//+", "b/{1}{1}", "cams//x", "b/xx"),
        ("+/image", "{1}/boxes", "door/image", "door/boxes"),
    ],
)
def test_the_answers_topic(source: str, target: str, topic: str, answer: str) -> None:
    mapped = TopicMap(source, target)
    assert mapped.takes(topic)
    assert mapped.answer(topic) == answer


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("", "b", "--from"),
        ("a", "", "--to"),
        ("a+/b", "c", "whole level"),
        ("a/#/b", "c", "whole last one"),
        ("#", "c", "devices' own topics"),
        ("$SYS/broker", "c", "devices' own topics"),
        ("$share/g/a", "c", "devices' own topics"),
        ("slicemq/v1/default/pipelines/+", "c", "devices' own topics"),
        ("a", "b/+", "without + and #"),
        ("a/+", "b/{2}", "has 1 wildcards"),
        ("a/+", "b/{0}", "has 1 wildcards"),
        ("a/+", "b/{x}", "braces"),
        ("a/#", "a/b", "taken for messages"),
        ("a/+", "a/{1}", "taken for messages"),
        ("a", "slicemq/v1/default/coordinator", "devices' own topics"),
        ("a\nb", "c", "printable"),
    ],
)
def test_what_cannot_be_is_refused(source: str, target: str, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("+", r"\+")):
        TopicMap(source, target)


@pytest.mark.parametrize("topic", ["slicemq/image", "$SYS/image", "x" * 65_000 + "/image"])
def test_a_device_cannot_choose_a_topic_that_is_not_devices(topic: str) -> None:
    mapped = TopicMap("+/image", "{1}/v1/default/coordinator" + "y" * 600)
    assert mapped.answer(topic) == ""


def test_a_device_cannot_make_answers_into_messages() -> None:
    assert TopicMap("in/+/+", "in/{1}").answer("in/a/b") == "in/a"
    assert TopicMap("in/+/#", "{2}/x/y").answer("in/a/in") == ""
