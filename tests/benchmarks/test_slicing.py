"""Cutting a 100 MB model takes at most three times the file in memory; what the benchmark counts as a miss."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.slicing import MOST_MEMORY, Row, measure, misses, synthetic, table


def test_a_large_model_is_cut_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.tflite"
    path.write_bytes(synthetic())
    assert path.stat().st_size > 99_000_000
    for count in (2, 20):
        row = measure("large", path, count, 1, tmp_path / "slices")
        assert 0.5 < row.times < MOST_MEMORY
        assert len(list((tmp_path / "slices").glob("slice-*.tflite"))) == count


@pytest.mark.parametrize(
    ("seconds", "peak", "words"),
    [
        ((1.0, 1.9), 2.9, []),
        ((2.1, 2.0), 2.9, ["2 slices took 2.10 s"]),
        ((0.5, 1.1), 2.9, ["2.20 times as long as 2"]),
        ((1.0, 1.0), 3.1, ["2 slices took 3.10 times", "20 slices took 3.10 times"]),
    ],
)
def test_misses_are_named(seconds: tuple[float, float], peak: float, words: list[str]) -> None:
    size = 100_000_000
    rows = [Row("m", size, n, s, int(peak * size)) for n, s in zip((2, 20), seconds, strict=True)]
    found = misses(rows)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))
    assert "| m | 100.0 | 20 |" in table(rows)
    assert misses([Row("small", 10, 2, 9.0, 1000)]) == []
