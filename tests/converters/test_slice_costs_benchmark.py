"""The benchmark of predicted costs: what it reports, writes, refuses and fails for."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import slice_costs
from benchmarks.slice_costs import Row, report

ROW = Row("face-back", "0-9", 10, "ai_edge_litert", 10_500_000, 10_000_000, 0.0009, 0.001)


def test_errors_are_relative_to_what_was_measured() -> None:
    assert ROW.memory_error == pytest.approx(0.05)
    assert ROW.time_error == pytest.approx(-0.1)


def test_the_report_has_a_line_for_each_model_and_the_worst_slices() -> None:
    bad = replace(ROW, slice="3-4", memory_predicted=20_000_000)
    lines = report([ROW, ROW, bad, replace(ROW, runtime="tflite_runtime")]).splitlines()
    assert (
        "| ai_edge_litert | face-back | 3 | 5.0 % | 67 % | +5 % to +100 % | 10.0 % | 100 % | -10 % to -10 % |"
        in lines
    )
    assert sum(line.startswith("| **") for line in lines) == 2
    assert next(line for line in lines if line.startswith("| memory |")).endswith("3-4 | 20.0 MB | 10.0 MB |")


def test_a_median_beyond_its_mark_fails() -> None:
    assert not slice_costs._beyond([ROW])
    assert slice_costs._beyond([replace(ROW, memory_predicted=12_000_000)])
    assert slice_costs._beyond([replace(ROW, time_predicted=0.0008)])


def test_the_table_goes_between_the_marks_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "models.md"
    page.write_text(f"before\n{slice_costs._BEGIN}\n\nold\n\n{slice_costs._END}\nafter\n")
    monkeypatch.setattr(slice_costs, "PAGE", page)
    slice_costs._write("| new |")
    assert page.read_text() == f"before\n{slice_costs._BEGIN}\n\n| new |\n\n{slice_costs._END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit):
        slice_costs._write("| new |")


@pytest.mark.parametrize("words", [["--models", "nix"], ["--slices", "2"]])
def test_wrong_arguments_are_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["slice_costs", *words])
    with pytest.raises(SystemExit) as ended:
        slice_costs.main()
    assert ended.value.code == 2
