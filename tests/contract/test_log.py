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


def test_a_flood_of_warnings_is_thinned_out_and_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    monkeypatch.setattr("time.time_ns", lambda: int(now * 1e9))
    setup_logging("info")
    logger = logging.getLogger("slicemq.test")
    for k in range(200):
        logger.warning("ignored: %s", k)
        logger.info("joined: %s", k)
    logger.warning("another wording")
    lines = capsys.readouterr().err.splitlines()
    assert sum("ignored:" in line for line in lines) == 50
    assert sum("joined:" in line for line in lines) == 200
    assert "another wording" in lines[-1]
    now += 11.0
    logger.warning("ignored: %s", "late")
    logger.warning("ignored: %s", "later")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("ignored: late (and 150 more such lines, left out)")
    assert second.endswith("ignored: later")


def test_at_debug_every_warning_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("debug")
    for k in range(100):
        logging.getLogger("slicemq.test").warning("ignored: %s", k)
    assert len(capsys.readouterr().err.splitlines()) == 100
