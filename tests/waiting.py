"""Waiting for what shall happen, with a limit: tests hold no sleeps of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout: float = 10.0, *, every: float = 0.01) -> T:
    """The first true value of `predicate`, asked every `every` seconds; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {timeout} s (last value: {value!r})")
        time.sleep(every)


def never(predicate: Callable[[], object], during: float = 0.5, *, every: float = 0.01) -> None:
    """Fail when `predicate` becomes true within `during` seconds."""
    deadline = time.monotonic() + during
    while time.monotonic() < deadline:
        value = predicate()
        assert not value, f"came true: {value!r}"
        time.sleep(every)
