"""The exception tree, its exit codes, and the page that lists them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from slicemq import errors
from slicemq.errors import FrameFailedError, SliceMQError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md"
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SliceMQError)]


def test_codes_are_distinct_and_leave_those_of_shells_alone() -> None:
    codes = {kind: kind.exit_code for kind in KINDS}
    assert len(set(codes.values())) == len(codes)
    assert all(1 <= code < 126 for code in codes.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_tree_at_the_head_of_the_module_is_the_tree(kind: type[SliceMQError]) -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if re.search(rf"\b{kind.__name__}\b", line)]
    assert len(lines) == 1
    assert str(kind.exit_code) in lines[0].split()


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_lists_every_code_with_its_remedy(kind: type[SliceMQError]) -> None:
    rows = re.findall(
        rf"^\| {kind.exit_code} \| `{kind.__name__}` \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE
    )
    assert len(rows) == 1
    assert all(len(cell.strip()) > 10 for cell in rows[0])


def test_the_reference_lists_no_other_code() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \| `\w+` \|", PAGE.read_text(), re.MULTILINE)}
    assert listed == {kind.exit_code for kind in KINDS}


def test_a_failed_frame_says_which_and_why() -> None:
    error = FrameFailedError("poisoned", "crashed s1 twice", 7)
    assert str(error) == "frame 7: poisoned: crashed s1 twice"
    assert (error.reason, error.sequence, error.exit_code) == ("poisoned", 7, 62)
    assert str(FrameFailedError("closed")) == "closed"
    assert str(FrameFailedError("gave-up", sequence=0)) == "frame 0: gave-up"


def test_the_reference_lists_every_reason_of_a_failed_frame() -> None:
    reasons = re.findall(r"`([a-z-]+)`", (FrameFailedError.__doc__ or "").partition("contract:")[2].split(".")[0])
    assert len(reasons) >= 7
    for reason in reasons:
        assert f"`{reason}`" in PAGE.read_text()
