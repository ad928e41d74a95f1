"""Operator costs: estimated, solved from the times of windows, and measured."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from converters import profile as profile_module
from converters.classes import CLASSES, class_of
from converters.fit import Fit, Vector, Window, solve
from converters.graph import Graph, read_graph
from converters.profile import Profile, estimate, from_plain, measure
from converters.runtime import Array, Interpreter
from edge_node import capacity
from edge_node.calibration import make as calibration
from tests.converters.machine import load
from tests.converters.tiny import Tiny, chain, diamond, half_weights


def test_estimate_is_deterministic_and_grows_with_work() -> None:
    tiny = Tiny()
    x = tiny.input((1, 64))
    small = tiny.constant(np.zeros((64, 64), np.float32))
    large = tiny.constant(np.zeros((6400, 64), np.float32))
    y = tiny.dense(x, small, shape=(1, 64))
    data = tiny.build([tiny.dense(y, large, shape=(1, 6400))])
    profile = estimate(read_graph(data))
    assert profile == estimate(read_graph(data))
    assert not profile.measured
    assert profile.fit is None
    assert set(profile.seconds) == {0, 1}
    assert profile.seconds[1] > 5 * profile.seconds[0] > 0
    assert profile.of([0]) == profile.overhead + profile.seconds[0]


def _windows(truth: Vector, overhead: float, sizes: tuple[int, ...]) -> list[Window]:
    found = []
    for size in sizes:
        for first in range(0, len(truth), size):
            last = min(first + size, len(truth))
            found.append(Window(first, last, float(truth[first:last].sum()) + overhead))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("overhead", [0.0, 2e-6, 5e-4])
def test_exact_windows_give_the_exact_seconds_back(seed: int, overhead: float) -> None:
    truth = 10.0 ** np.random.default_rng(seed).uniform(-6, -3, 40)
    solved, found, fit = solve(_windows(truth, overhead, (1, 3, 10, 40)), 40)
    slices = _windows(truth, overhead, (7, 13))
    for piece in slices:
        assert found + solved[piece.first : piece.last].sum() == pytest.approx(piece.seconds, rel=0.005)
    assert fit.windows == 40 + 14 + 4 + 1
    assert fit.median < 0.001
    assert abs(fit.whole) < 0.001
    if overhead == 5e-4:
        assert found == pytest.approx(overhead, rel=0.01)


def test_noise_in_single_windows_is_averaged_and_reported() -> None:
    rng = np.random.default_rng(3)
    truth = 10.0 ** rng.uniform(-5, -3, 60)
    noisy = [
        replace(window, seconds=window.seconds * float(rng.uniform(1.0, 1.2)))
        for window in _windows(truth, 1e-6, (1, 3, 10, 15, 60))
    ]
    solved, overhead, fit = solve(noisy, 60)
    assert (solved >= 0).all()
    assert overhead >= 0
    for piece in _windows(truth, 1e-6, (12,)):
        assert solved[piece.first : piece.last].sum() == pytest.approx(piece.seconds * 1.1, rel=0.1)
    assert 0.005 < fit.median < 0.1
    assert fit.median < fit.worst < 0.25


def test_windows_that_contradict_each_other_give_no_negative_seconds() -> None:
    windows = [Window(0, 1, 1.0), Window(1, 2, 1.0), Window(0, 2, 0.5)]
    solved, overhead, fit = solve(windows, 2)
    assert (solved >= 0).all()
    assert overhead >= 0
    assert fit.worst > 0.3
    zero, _, _ = solve([Window(0, 1, 0.0), Window(0, 2, 0.0), Window(1, 2, 0.0)], 2)
    assert zero.sum() < 1e-8


def test_a_part_in_no_window_is_an_error() -> None:
    with pytest.raises(ValueError, match="in no window"):
        solve([Window(0, 1, 1.0)], 2)


class _Clocked:
    """A runtime in which time passes as told, by operator; `held` counts the interpreters that are alive."""

    def __init__(self, cost: dict[str, float], call: float = 0.0, copy: float = 0.0) -> None:
        self.now = 0.0
        self.cost = cost
        self.call = call
        self.copy = copy
        self.held = 0
        self.most_held = 0
        self.operators: list[int] = []

    def clock(self) -> float:
        return self.now

    def load(self, model: bytes | Path) -> Interpreter:
        assert isinstance(model, bytes)
        graph = read_graph(model)
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        self.operators.append(len(graph.operators))
        seconds = self.call + sum(self.cost[op.name] for op in graph.operators)
        return _ClockedInterpreter(self, load(model), seconds)


class _ClockedInterpreter:
    def __init__(self, owner: _Clocked, inner: Interpreter, seconds: float) -> None:
        self._owner = owner
        self._inner = inner
        self._seconds = seconds
        self.inputs = inner.inputs
        self.resize = inner.resize

    def __del__(self) -> None:
        self._owner.held -= 1

    def set_input(self, position: int, array: Array) -> None:
        self._inner.set_input(position, array)
        self._owner.now += self._owner.copy * array.nbytes

    def output(self, position: int) -> Array:
        array = self._inner.output(position)
        self._owner.now += self._owner.copy * array.nbytes
        return array

    def invoke(self) -> None:
        self._inner.invoke()
        self._owner.now += self._seconds


def test_measure_finds_each_operators_time() -> None:
    data = diamond()
    graph = read_graph(data)
    machine = _Clocked({"TANH": 1.0, "RELU": 2.0, "LOGISTIC": 3.0, "ADD": 4.0}, copy=0.001)
    profile = measure(data, graph, machine.load, runtime="pretended", clock=machine.clock)
    assert profile.measured
    assert profile.runtime == "pretended"
    assert [profile.seconds[i] for i in graph.steps] == pytest.approx([1, 2, 3, 4, 4], abs=0.01)
    assert profile.overhead == pytest.approx(0.0, abs=0.01)
    assert profile.fit is not None
    assert profile.fit.worst < 0.01
    assert profile.of([0, 1]) == pytest.approx(3, abs=0.02)
    nbytes = 2 * graph.tensors[graph.inputs[0]].nbytes
    copied = profile.of([0], tensors=2, nbytes=nbytes) - profile.of([0])
    assert copied == pytest.approx(0.001 * nbytes, rel=0.05)
    assert machine.most_held == 1


def test_measure_tells_a_calls_time_from_the_operators() -> None:
    data = chain(30)
    graph = read_graph(data)
    names = {graph.operators[step].name for step in graph.steps}
    machine = _Clocked(dict.fromkeys(names, 1.0), call=0.5)
    profile = measure(data, graph, machine.load, clock=machine.clock)
    assert profile.overhead == pytest.approx(0.5, rel=0.05)
    assert list(profile.seconds.values()) == pytest.approx([1.0] * 30, rel=0.03)


def test_no_window_holds_more_weights_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Tiny()
    x = tiny.input((1, 50))
    for _ in range(8):
        x = tiny.dense(x, tiny.constant(np.zeros((50, 50), np.float32)), shape=(1, 50))
    data = tiny.build([x])
    graph = read_graph(data)
    monkeypatch.setattr(profile_module, "_WINDOW_BYTES", 25_000)
    machine = _Clocked({"FULLY_CONNECTED": 1.0})
    profile = measure(data, graph, machine.load, clock=machine.clock)
    assert max(machine.operators) == 2
    assert sum(profile.seconds.values()) == pytest.approx(8.0, rel=0.01)


def test_measure_on_a_real_runtime() -> None:
    data = half_weights()
    graph = read_graph(data)
    profile = measure(data, graph, load, budget=0.05)
    assert set(profile.seconds) == set(graph.steps)
    assert all(0 <= s < 1 for s in profile.seconds.values())
    assert 0 < sum(profile.seconds.values()) < 1


def _measured() -> tuple[Graph, Profile]:
    graph = read_graph(chain(3))
    fit = Fit(5, 0.01, 0.2, -0.05)
    return graph, Profile(dict.fromkeys(graph.steps, 0.5), "x 1", True, 1e-6, 1e-6, 1e-11, fit)


def test_a_profile_travels_as_json() -> None:
    for profile in (_measured()[1], estimate(_measured()[0])):
        assert from_plain(json.loads(json.dumps(asdict(profile)))) == profile


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": []}, "seconds"),
        ({"seconds": {"-1": 1.0}}, "seconds"),
        ({"seconds": {"1" * 5000: 1.0}}, "seconds"),
        ({"seconds": {"0": -1.0}}, "seconds 0"),
        ({"seconds": {"0": float("nan")}}, "seconds 0"),
        ({"seconds": {"0": True}}, "seconds 0"),
        ({"seconds": {"0": 10**400}}, "seconds 0"),
        ({"overhead": "1"}, "overhead"),
        ({"per_byte": None}, "per_byte"),
        ({"runtime": 3}, "runtime"),
        ({"measured": 1}, "measured"),
        ({"fit": 3}, "fit"),
        ({"fit": {"windows": 1.5, "median": 0, "worst": 0, "whole": 0}}, "fit"),
        ({"fit": {"windows": 1, "median": "0", "worst": 0, "whole": 0}}, "fit median"),
        ({"more": 1}, "expected an object with"),
    ],
)
def test_hostile_profiles_are_refused(change: dict[str, object], message: str) -> None:
    body = json.loads(json.dumps({**asdict(_measured()[1]), **change}))
    with pytest.raises(ValueError, match=message):
        from_plain(body)
    others: tuple[object, ...] = (None, [], 3, "x", {})
    for nonsense in others:
        with pytest.raises(ValueError, match="profile"):
            from_plain(nonsense)


def test_classes_have_calibration_models() -> None:
    assert set(CLASSES) == set(capacity.CLASSES) == set(calibration.MODELS)
    assert len(CLASSES) == len(set(CLASSES))


@pytest.mark.parametrize("name", sorted(calibration.MODELS))
def test_each_calibration_model_is_of_its_class(name: str) -> None:
    graph = read_graph((capacity.CALIBRATION / f"{name}.tflite").read_bytes())
    found = {class_of(graph, graph.operators[step]) for step in graph.steps}
    assert found == {name}
    assert graph.dynamic == name.endswith("-dynamic")


def test_classes_of_odd_operators() -> None:
    graph = read_graph(half_weights())
    assert {class_of(graph, graph.operators[step]) for step in graph.steps} <= set(CLASSES)
    odd = replace(graph.operators[graph.steps[0]], name="SOMETHING_NEW", inputs=(-1,), outputs=())
    assert class_of(graph, odd) == "elementwise"
    assert class_of(replace(graph, dynamic=True), replace(odd, name="GATHER")) == "moving"
    assert class_of(replace(graph, dynamic=True), replace(odd, name="TANH")) == "function-dynamic"
