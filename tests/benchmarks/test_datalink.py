"""The benchmark of the data links: it measures, its marks can be missed, its report holds every way."""

from __future__ import annotations

import json

import pytest

from benchmarks import datalink
from benchmarks.datalink_ends import Cost


def test_it_measures_each_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(datalink, "SIZES", {10_000: 20})
    assert datalink.main(["--sizes", "10000", "--no-qos", "--repeat", "1", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["cost"]) == {"bare", "own", "paho"}
    assert all(row["10000"]["rate"] > 0 for row in found["cost"].values())
    assert "mosquitto" in found["machine"]


def test_marks_are_of_large_frames_and_can_be_missed() -> None:
    good, bad = Cost(0.0003, 0.0003, 1.0), Cost(0.0008, 0.0006, 1.0)
    assert datalink.marks({"own": {1000: bad}, "paho": {1_000_000: bad}}) == []
    assert all(one.held for one in datalink.marks({"own": {1_000_000: good}}))
    assert not any(one.held for one in datalink.marks({"own": {1_000_000: bad}}))


def test_the_report_has_all_tables() -> None:
    cost = {size: Cost(0.001, 0.002, 3.0) for size in datalink._QOS_SIZES}
    broken = [datalink.Broken(0, 400, 1, 0, 3), datalink.Broken(1, 400, 1, 2, 2)]
    text = datalink.report("mosquitto", {"bare": cost, "own": cost}, {0: cost, 1: cost}, broken)
    assert "| 1000 | 1.000 (1000.00) | 2.000 (2000.00) | 1.000 (1000.00) | 2.000 (2000.00) |" in text
    assert "| 0 | 3 | 1 | - |" in text
    assert "| 1 | 2 | 1 | 2 |" in text
