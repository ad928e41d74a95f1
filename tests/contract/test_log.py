"""Logging: text for people, one JSON object a line for collectors."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from slicemq.log import LEVELS, setup_logging


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "json")
    logger = logging.getLogger("slicemq.test")
    logger.info("two\nlines of %s", "text")
    try:
        raise ValueError("inner")
    except ValueError:
        logger.exception("outer")
    logger.debug("not shown")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = (json.loads(line) for line in captured.err.splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("info", "slicemq.test", "two\nlines of text")
    assert "exception" not in first
    assert second["level"] == "error"
    assert "ValueError: inner" in second["exception"]
    assert first["time"][:2] == "20"


def test_text_goes_to_standard_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("info", "text")
    setup_logging("warning", "text")
    logging.getLogger("slicemq.test").warning("careful")
    logging.getLogger("slicemq.test").info("not shown")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "WARNING slicemq.test: careful" in captured.err


@pytest.mark.parametrize("level", LEVELS)
def test_levels(level: str) -> None:
    setup_logging(level)
    assert logging.getLogger().level == getattr(logging, level.upper())
