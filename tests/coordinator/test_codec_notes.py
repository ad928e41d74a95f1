"""Measures of codecs are kept for what they were measured with, and measured anew for anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.codec_errors import CodecMeasures
from converters.graph import read_graph
from coordinator import codec_notes
from coordinator.codec_notes import measures_of
from tests.converters.machine import load
from tests.converters.tiny import diamond

DATA = diamond()
GRAPH = read_graph(DATA)


def test_measures_are_kept_for_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []

    def measure(*_: Any, **__: Any) -> CodecMeasures:
        times.append(len(times))
        return CodecMeasures({1: float(len(times))}, {})

    monkeypatch.setattr(codec_notes, "measure_codecs", measure)

    def asked(
        runtime: str = "r 1", sets: tuple[int, ...] = (1,), names: tuple[str, ...] = ("lz4",), **rest: Any
    ) -> float:
        return measures_of(DATA, GRAPH, load, runtime, tmp_path, sets, names, **rest).ratios[1]

    samples = [{0: np.ones((1, 4), np.float32)}]
    others: list[dict[str, Any]] = [
        {},
        {"runtime": "r 2"},
        {"sets": (1, 3)},
        {"names": ("lz4", "f16")},
        {"samples": samples},
        {"samples": [{0: np.zeros((1, 4), np.float32)}]},
        {"seconds": 1.0},
    ]
    first = [asked(**other) for other in others]
    assert first == [float(k) for k in range(1, 8)]
    assert [asked(**other) for other in others] == first
    assert asked(fresh=True) == 8.0
    assert asked() == 8.0
    for path in tmp_path.iterdir():
        path.write_text("{}")
    assert asked() == 9.0, "a damaged file counts as none"
