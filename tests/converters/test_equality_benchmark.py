"""The equality benchmark: it runs, resumes, cuts into branches, finds what differs, and writes its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import equality
from benchmarks.chains import Remembered, Subject, bound_units, odd_numbers, random_groups
from benchmarks.models import RealModel, real_models
from converters.graph import Graph, read_graph
from converters.schema import open_model
from converters.slicing import iter_slices, legal_positions, parts
from tests.converters.machine import load

_IRIS = real_models()["iris-landmark"]
_WORDS = ("--models", "iris-landmark", "--seeds", "1", "--runtimes", "ai_edge_litert", "--format", "json")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "CACHE", tmp_path / "equality")


def _main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["equality", *words])
    code = equality.main()
    return code, capsys.readouterr().out


def _iris() -> Graph:
    return read_graph(open_model(_IRIS.path))


def test_runs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = _main(monkeypatch, capsys, *_WORDS)
    body = json.loads(text)
    assert code == 0
    assert [row["slices"] for row in body["rows"]] == [2, 3, 4, 5, 6, 7, 8]
    assert all(row["equal"] and row["frames"] == 3 for row in body["rows"])
    assert body["summary"][0]["operators"] == 169
    assert body["summary"][0]["result"] == "equal"
    (kept,) = (tmp_path / "equality").iterdir()
    # A run that was stopped while it wrote: the whole lines count, the rest is run again.
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:3]) + lines[3][:10])
    ran: list[str] = []
    monkeypatch.setattr(equality, "_progress", lambda model, runtime, line: ran.append(line))
    again, text = _main(monkeypatch, capsys, *_WORDS)
    assert (again, json.loads(text)) == (0, body)
    assert [json.loads(line).get("slices") for line in ran] == [None, 4, 5, 6, 7, 8]


def test_other_code_runs_only_what_cuts_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text = _main(monkeypatch, capsys, *_WORDS)
    (kept,) = (tmp_path / "equality").iterdir()
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    # As if other code had written the rows: the first with other slices, the others with the same as now.
    for line in lines:
        line["code"] = "other"
        line["frames"] = 77
    lines[1]["digest"] = "0"
    kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, again = _main(monkeypatch, capsys, *_WORDS)
    assert [row["frames"] for row in json.loads(again)["rows"]] == [3, *([77] * 6)]
    assert len(json.loads(text)["rows"]) == 7


def test_a_difference_is_a_failure_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "model": "iris-landmark",
        "runtime": "ai_edge_litert",
        "slices": 2,
        "seed": 0,
        "kind": "cuts",
        "frames": 2,
    }
    bad = equality.Finding(_IRIS, "ai_edge_litert", None, [{**row, "equal": False, "detail": "slice s1, tensor 7"}])
    monkeypatch.setattr(equality, "_run", lambda *_: bad)
    code, text = _main(monkeypatch, capsys, *_WORDS[:-2])
    assert code == 1
    assert "1 differ: slice s1, tensor 7" in text


def test_a_child_that_crashes_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    code, text = _main(monkeypatch, capsys, *_WORDS[:-2])
    assert code == 1
    assert "the process ended with 1" in text


def test_a_runtime_that_is_not_installed_is_said_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(equality.RUNTIMES, "tflite_runtime", "no-such-distribution")
    code, text = _main(monkeypatch, capsys, "--models", "iris-landmark", "--runtimes", "tflite_runtime")
    assert code == 0
    assert "not installed" in text


def test_a_missing_model_is_a_failure_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = RealModel("absent", tmp_path / "absent.tflite", "run `make it`")
    monkeypatch.setattr(equality, "real_models", lambda: {"absent": absent})
    monkeypatch.setattr("sys.argv", ["equality"])
    assert equality.main() == 1
    assert "run `make it`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--runtimes", "nonsense"), "nonsense is not one of"),
        (("--seeds", "0"), "--seeds: 0, expected 1 or more"),
        (("--jobs", "0"), "--jobs: 0, expected 1 or more"),
    ],
)
def test_wrong_arguments_are_named(
    words: Sequence[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["equality", *words])
    with pytest.raises(SystemExit):
        equality.main()
    assert said in capsys.readouterr().err


def test_too_few_cuts_are_said() -> None:
    rows: list[dict[str, Any]] = [
        {"slices": n, "kind": "cuts" if n < 4 else "none", "frames": int(n < 4), "equal": True} for n in range(2, 9)
    ]
    summary = equality._summary(equality.Finding(_IRIS, "ai_edge_litert", None, rows))
    assert (summary["chains"], summary["frames"]) == (2, 2)
    assert summary["result"] == "equal; too few cuts for 4 slices and more"
    none = [{**row, "kind": "none"} for row in rows]
    facts = {"uncut": "all its operators use one variable", "note": ""}
    result = equality._summary(equality.Finding(_IRIS, "ai_edge_litert", facts, none))["result"]
    assert result == "cannot be cut: all its operators use one variable"


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


def test_every_third_seed_puts_branches_into_different_slices() -> None:
    graph = _iris()
    legal = legal_positions(graph)
    kinds = []
    for seed in range(9):
        chosen = random_groups(graph, legal, 5, seed)
        assert chosen is not None
        kind, groups = chosen
        kinds.append(kind)
        assert len(parts(graph, groups)) == 5
        place = {step: i for i, step in enumerate(graph.steps)}
        runs = all(place[g[-1]] - place[g[0]] == len(g) - 1 for g in groups)
        assert runs == (kind == "cuts")
    assert kinds == ["cuts", "cuts", "branches"] * 3
    assert random_groups(graph, legal[:2], 1000, 0) is None


def test_the_whole_runs_a_frame_only_once() -> None:
    native = load(_IRIS.path)
    whole = Remembered(native, 2)
    runs = []

    class Counting:
        inputs = native.inputs
        set_input = staticmethod(native.set_input)
        resize = staticmethod(native.resize)
        output = staticmethod(native.output)

        @staticmethod
        def invoke() -> None:
            runs.append(1)
            native.invoke()

    whole.native = Counting()
    first, second = (np.full((1, 64, 64, 3), value, np.float32) for value in (0.0, -0.0))
    answers = []
    for array in (first, second, first):
        whole.set_input(0, array)
        whole.invoke()
        answers.append(whole.output(0).tobytes())
    assert len(runs) == 2
    native.set_input(0, first)
    native.invoke()
    assert answers[0] == answers[2] == native.output(0).tobytes()


def test_a_wrong_slice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(_IRIS, "ai_edge_litert")
    good = subject.row(3, 1, {})
    assert good.equal
    assert good.frames == 2
    real = load

    class Off:
        """A slice whose first output is off in one bit."""

        def __init__(self, native: Any) -> None:
            self.native = native
            self.inputs = native.inputs

        def __getattr__(self, name: str) -> Any:
            return getattr(self.native, name)

        def output(self, position: int) -> Any:
            array = self.native.output(position).copy()
            array.reshape(-1).view(np.uint8)[0] ^= 1
            return array

    monkeypatch.setattr(subject, "load", lambda m: Off(real(m)) if isinstance(m, bytes) else real(m))
    bad = subject.row(3, 1, {})
    assert not bad.equal
    assert "differ" in bad.detail
    assert "slices 0-" in bad.detail
    # A row that is known for these slices is taken as it is.
    assert subject.row(3, 1, {good.digest: good}).equal


def test_odd_numbers_keep_the_rest() -> None:
    array = np.random.default_rng(0).standard_normal((1, 50, 100)).astype(np.float32)
    finite = odd_numbers(array, 3, finite=True)
    assert np.isfinite(finite).all()
    assert 0.85 < np.mean(finite == array) < 0.95
    wild = odd_numbers(array, 3, finite=False)
    assert 5 <= np.sum(~np.isfinite(wild)) <= 10
    whole_numbers = np.arange(5, dtype=np.int32)
    assert odd_numbers(whole_numbers, 0, finite=True) is whole_numbers


def test_steps_between_users_of_one_variable_are_one_unit() -> None:
    graph = read_graph(open_model(real_models()["wake-alexa"].path))
    units = bound_units(graph)
    assert sorted(step for unit in units for step in unit) == sorted(graph.steps)
    assert len(graph.together) == 6
    for bound in graph.together:
        assert sum(set(unit) >= set(bound) for unit in units) == 1
    chosen = random_groups(graph, legal_positions(graph), 6, 2)
    assert chosen is not None
    assert len(parts(graph, chosen[1])) == 6


def test_a_slice_that_loses_its_state_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(real_models()["wake-alexa"], "ai_edge_litert")
    good = subject.row(3, 0, {})
    assert (good.equal, good.frames) == (True, 50)
    real = subject._open

    class Forgetful:
        """A slice that is loaded again, as after a crash, before its 26th frame."""

        def __init__(self, model: bytes | Path) -> None:
            self.model, self.native, self.frames = model, real(model), 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.native, name)

        def set_input(self, position: int, array: Any) -> None:
            if position == 0:
                self.frames += 1
                self.native = real(self.model) if self.frames == 26 else self.native
            self.native.set_input(position, array)

    whole = subject._source
    chain = [p.data for p in iter_slices(subject.data, subject.graph, _groups(subject, 3))]
    monkeypatch.setattr(subject, "_open", lambda m: Forgetful(m) if m in chain else real(m))
    bad = subject.row(3, 0, {})
    assert whole == real_models()["wake-alexa"].path
    assert not bad.equal
    assert "frame 25: slice s" in bad.detail


def _groups(subject: Subject, slices: int) -> Sequence[Sequence[int]]:
    chosen = random_groups(subject.graph, subject.legal, slices, 0)
    assert chosen is not None
    return chosen[1]
