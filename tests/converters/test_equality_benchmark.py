"""The equality benchmark: it runs, resumes where it was stopped, and writes its table between its marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import equality


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "CACHE", tmp_path / "equality")


def _main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["equality", *words])
    code = equality.main()
    return code, capsys.readouterr().out


def test_runs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--models", "iris-landmark", "--seeds", "1", "--runtimes", "ai_edge_litert", "--format", "json")
    code, text = _main(monkeypatch, capsys, *words)
    body = json.loads(text)
    assert code == 0
    assert [(row["slices"], row["frames"], row["equal"]) for row in body["rows"]] == [
        (2, 2, True),
        (3, 2, True),
        (5, 2, True),
        (8, 2, True),
    ]
    (kept,) = (tmp_path / "equality").iterdir()
    # A run that was stopped while it wrote: the whole lines count, the rest is run again.
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:2]) + lines[2][:10])
    ran: list[str] = []
    monkeypatch.setattr(equality, "_progress", lambda model, runtime, line: ran.append(line))
    again, text = _main(monkeypatch, capsys, *words)
    assert (again, json.loads(text)) == (0, body)
    assert [json.loads(line)["slices"] for line in ran] == [5, 8]


def test_a_difference_or_a_crash_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--models", "iris-landmark", "--seeds", "1", "--runtimes", "ai_edge_litert")
    bad = equality.Row("iris-landmark", "ai_edge_litert", 2, 0, 2, False, "slice s1, tensor 7")
    monkeypatch.setattr(equality, "_run", lambda *_: ([bad], ""))
    code, text = _main(monkeypatch, capsys, *words)
    assert code == 1
    assert "slice s1, tensor 7" in text


def test_a_runtime_that_is_not_installed_is_said_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(equality.RUNTIMES, "tflite_runtime", "no-such-distribution")
    code, text = _main(monkeypatch, capsys, "--models", "iris-landmark", "--runtimes", "tflite_runtime")
    assert code == 0
    assert "not installed" in text


def test_the_page_keeps_what_is_around_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "models.md"
    page.write_text(f"before\n{equality.BEGIN}\nold\n{equality.END}\nafter\n")
    monkeypatch.setattr(equality, "PAGE", page)
    equality._write_page("| new |")
    equality._write_page("| new |")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert text.count("| new |") == 1
    assert "old" not in text
