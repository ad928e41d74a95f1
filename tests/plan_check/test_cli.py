"""`slicemq plan check`: exit codes, what is printed, where the costs file is looked for."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.cli.app import build
from coordinator.planner.books.write import text_of
from tests.plan_check.cases import several

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "costs-file.md"
CASE = several(1, slices=2, shapes=("pipeline",))[0]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    arguments = ["plan", "check", *map(str, words)]
    with pytest.raises(SystemExit) as ended:
        build(arguments)(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    text = text_of(CASE.books)
    (tmp_path / "costs.json").write_text(text)
    named = {"file": "costs.json", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**CASE.plan, "costs": named}))
    return path


def test_the_costs_file_beside_the_plan_is_found(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, error = run(capsys, plan)
    assert (code, error) == (0, "")
    assert "it is the one that the plan names" in text
    assert " failed " not in text
    code, text, _ = run(capsys, plan, "--format", "json")
    body = json.loads(text)
    assert (code, body["failed"], body["costs"]) == (0, False, str(plan.parent / "costs.json"))
    assert {row["result"] for row in body["checks"]} <= {"proved", "not checked"}


def test_a_wrong_plan_has_its_own_exit_code(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.loads(plan.read_text())
    body["latency_ms"] += 1
    plan.write_text(json.dumps(body))
    code, text, error = run(capsys, plan)
    assert code == 22
    assert "not as the plan says: latency" in error
    assert re.search(r"latency +failed", text)


def test_without_costs_the_exit_code_says_so(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plan.parent / "costs.json").rename(plan.parent / "other.json")
    code, text, error = run(capsys, plan)
    assert code == 23
    assert "its costs file 'costs.json' is not beside it" in error
    assert "there are no costs" in text
    assert run(capsys, plan, "--costs", plan.parent / "other.json")[0] == 0
    plan.write_text(json.dumps({**CASE.plan, "costs": None}))
    code, _, error = run(capsys, plan)
    assert code == 23
    assert "it names no costs file" in error


def test_files_that_are_none(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, plan.parent / "nothing.json")
    assert code == 72
    assert "nothing.json" in error
    other = plan.parent / "other.json"
    other.write_text("{}")
    code, _, error = run(capsys, other)
    assert code == 20
    assert "field format: missing" in error
    assert run(capsys, plan, "--costs", other)[0] == 20


def test_a_costs_file_elsewhere_is_not_looked_for(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.loads(plan.read_text())
    body["costs"]["file"] = str(plan.parent / "costs.json")
    plan.write_text(json.dumps(body))
    assert run(capsys, plan)[0] == 23


def test_the_program_of_the_page_checks_bounds(plan: Path) -> None:
    program = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert program is not None
    body, books = json.loads(plan.read_text()), CASE.books
    # Any integers prove something: with the seconds of one node as potentials, nodes are bounded by their work.
    seconds = books["nodes"][0]["steps"]
    potentials = [round(1e9 * sum(seconds[:place])) for place in range(len(seconds) + 1)]
    duals = {"potentials": potentials, "starts": [], "ends": [], "broker": 0, "slices": 0, "error": 0, "scale": 0}
    printed = {}
    for value in (min(seconds) / 1000, 1000 * sum(seconds)):
        body["certificate"] = [{"value": value, "proof": "lp-duals", "duals": duals}]
        plan.write_text(json.dumps(body))
        done = subprocess.run(
            [sys.executable, "-c", program.group(1)], capture_output=True, text=True, check=True, cwd=plan.parent
        )
        printed[value] = done.stdout.split()[-1]
    assert list(printed.values()) == ["True", "False"]
