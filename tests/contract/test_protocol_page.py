"""docs/reference/protocol.md: its examples are read by the code, and it leaves nothing out."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slicemq import codecs, messages, operations
from slicemq.frames import decode_frame, encode_frame
from slicemq.messages import TensorSpec, decode, encode
from slicemq.specs import spec_digest
from slicemq.topics import Topics
from slicemq.transfer import decode_chunk, encode_chunk

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "protocol.md").read_text()
EXAMPLES = re.findall(r"```json (\w+)\n(.*?)```", PAGE, re.DOTALL)
NESTED = {"Stamp", "RuntimeInfo", "Link", "SliceBeat", "Artifact", "TensorSpec", "Bundle", "ResultPart"} | {
    "SliceAssignment",
    "SliceReport",
    "Route",
    "Lane",
    "FrameName",
    "Crash",
    "RolloutEntry",
}
KINDS = {
    name: kind
    for module in (messages, operations)
    for name, kind in vars(module).items()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind.__module__ == module.__name__
}


def dump(kind: str) -> bytes:
    """The bytes of the page's hex dump of one kind; the column of characters must agree."""
    (block,) = re.findall(rf"```hex {kind}\n(.*?)```", PAGE, re.DOTALL)
    data = b""
    for number, line in enumerate(block.splitlines()):
        place, row, text = re.fullmatch(r"(\w{4})  ((?:\w\w ?){1,16}) *  (\S.*)", line.rstrip()).groups()  # type: ignore[union-attr]
        found = bytes.fromhex(row)
        assert int(place, 16) == 16 * number
        assert text == "".join(chr(byte) if 32 <= byte < 127 else "." for byte in found)
        data += found
    return data


def test_every_document_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == KINDS.keys() - NESTED


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_are_read_and_complete(name: str, text: str) -> None:
    kind: Any = KINDS[name]
    document = decode(kind, text.encode(), "example")
    body = json.loads(text)
    assert body.keys() == {"protocol"} | {field.name for field in dataclasses.fields(kind)}
    assert json.loads(encode(document)) == body


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_field_is_described(name: str) -> None:
    for field in dataclasses.fields(KINDS[name]):
        assert f"`{field.name}`" in PAGE, field.name


def test_the_example_pipelines_digest_is_right() -> None:
    text = next(text for name, text in EXAMPLES if name == "PipelineDocument")
    document = decode(messages.PipelineDocument, text.encode(), "example")
    assert document.spec == spec_digest(document.inputs, document.outputs)


def test_the_frame_byte_for_byte() -> None:
    payload = dump("frame")
    frame = decode_frame(payload)
    assert (frame.header.client, frame.header.stream, frame.header.sequence) == ("cam-1", 0x1122334455667788, 42)
    assert (frame.header.revision, frame.header.part, frame.header.parts) == ("3-9f2c41d7", 0, 1)
    array = frame.arrays()[0]
    np.testing.assert_array_equal(array, np.array([[1.0, -2.0]], np.float32))
    assert b"".join(encode_frame(frame.header, [(TensorSpec(0, "image", "float32", (1, 2)), array)])) == payload


def test_the_chunk_byte_for_byte() -> None:
    payload = dump("chunk")
    chunk = decode_chunk(payload)
    assert (chunk.transaction, chunk.offset, chunk.total, chunk.data) == ("t1", 4, 10, b"abcdef")
    assert encode_chunk(chunk) == payload


def test_every_topic_stands_in_the_table() -> None:
    topics = Topics("lab")
    built = [
        topics.coordinator,
        topics.coordinator_marker,
        topics.mirror,
        topics.standby("<instance>"),
        *(topics.node("<node>", leaf) for leaf in ("state", "capacity", "heartbeat", "assignment", "report")),
        topics.pipeline("<name>"),
        topics.plan("<name>"),
        topics.rollout("<name>"),
        topics.ingress("<id>"),
        topics.request("<client>", "<verb>"),
        topics.response("<client>"),
        topics.artifact_request("<sha256>"),
        topics.artifact_chunks("<sha256>", "<receiver>"),
        topics.data("<name>", "<revision>", "<bundle>"),
        topics.data("<name>", "<revision>", "<bundle>/<turn>"),
        topics.release("<name>", "<revision>"),
        topics.results("<name>", "<client>"),
        topics.link_probe("<owner>"),
    ]
    listed = re.findall(r"^\| `([^`]+)` \| (?:yes|no)", PAGE, re.MULTILINE)
    assert sorted(f"slicemq/v1/lab/{topic}" for topic in listed) == sorted(built)


def test_every_dtype_and_codec_is_named() -> None:
    (dtypes,) = re.findall(r"^\| dtype \| numpy's name: `([^`]+)` \|$", PAGE, re.MULTILINE)
    assert set(dtypes.split()) == codecs.DTYPES.keys()
    assert set(
        re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Codecs")[2].partition("##")[0], re.MULTILINE)
    ) == set(codecs.available())


def test_links_inside_the_page_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
