"""`slicemq model inspect | slice | verify`, as a user types them."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.converters.tiny import Tiny, chain, diamond


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coordinator.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _ok(*words: object) -> str:
    done = _run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "diamond.tflite"
    path.write_bytes(diamond())
    return path


def test_inspect(model: Path) -> None:
    text = _ok("model", "inspect", model)
    assert "4 places to cut" in text
    assert "TANH" in text
    body = json.loads(_ok("model", "inspect", model, "--format", "json"))
    assert body["inputs"] == [{"index": 0, "name": "x", "dtype": "float32", "shape": [1, 4]}]
    assert body["operator_counts"] == {"ADD": 2, "TANH": 1, "RELU": 1, "LOGISTIC": 1}
    assert [cut["bytes"] for cut in body["cuts"]] == [16, 32, 32, 16]
    assert {cut["bytes_from_client"] for cut in body["cuts"]} == {16}
    assert body["note"] == ""
    assert body["size"] == model.stat().st_size


def test_slice_by_stages_and_verify(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slices"
    assert "3 slices in" in _ok("model", "slice", model, "--stages", 3, "--profile", "estimate", "-o", folder)
    assert len(list(folder.glob("slice-*.tflite"))) == 3
    assert "equal, bit for bit: 5 frames" in _ok("model", "verify", model, folder)
    np.save(tmp_path / "frame.npy", np.ones((1, 4), np.float32))
    np.savez(tmp_path / "frame.npz", x=np.ones((1, 4), np.float32))
    given = ["--input", tmp_path / "frame.npy", "--input", tmp_path / "frame.npz", "--seeds", 0]
    body = json.loads(_ok("model", "verify", model, folder, *given, "--format", "json"))
    assert (body["equal"], body["frames"], body["differences"]) == (True, 2, [])


def test_verify_does_not_believe_a_changed_manifest(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    _ok("model", "slice", model, "--stages", 2, "--profile", "estimate", "-o", folder)
    written = (folder / "slices.json").read_text()

    def verified(**changes: object) -> tuple[int, str]:
        manifest = json.loads(written)
        manifest["slices"][0].update(changes)
        (folder / "slices.json").write_text(json.dumps(manifest))
        done = _run("model", "verify", model, folder)
        return done.returncode, done.stderr

    outputs = json.loads(written)["slices"][0]["outputs"]
    assert verified() == (0, "")
    assert verified(size=1)[0] == 53
    code, said = verified(outputs=outputs * 2)
    assert (code, f"slice s0: fewer outputs than the {2 * len(outputs)} expected" in said) == (10, True)


def test_verify_refuses_a_manifest_of_another_model(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    _ok("model", "slice", model, "--at", 2, "-o", folder)
    written = (folder / "slices.json").read_text()
    everywhere = written.replace("[1, 4]", "[4, 1]")
    changes = (
        ("slice s0: field operators: 99999", [99999, 1], "slices", 0, "operators"),
        ("slice s0: field operators: none makes its output 1", [3, 1], "slices", 0, "operators"),
        ("model: field size: 1, expected", 1, "model", "size"),
        ("inputs: tensor 0: field name: y, expected x", "y", "inputs", 0, "name"),
        ("slice s1: tensor 5: field name: y, expected t5", "y", "slices", 1, "outputs", 0, "name"),
        ("field outputs: tensors: [5, 5], expected [5]", json.loads(written)["outputs"] * 2, "outputs"),
    )
    texts = [("input 0 (x): shape [4, 1], expected float32 [1, 4]", everywhere)]
    texts.append(("tensor 0: field dtype: int32, expected float32", written.replace("float32", "int32")))
    for words, value, *path in changes:
        body = where = json.loads(written)
        for key in path[:-1]:
            where = where[key]
        where[path[-1]] = value
        texts.append((words, json.dumps(body)))
    output = json.loads(written)
    for tensor in (output["outputs"][0], output["slices"][1]["outputs"][0]):
        tensor["shape"] = [2, 2]
    texts.append(("tensor 5 (t5): field shape: [2, 2], expected [1, 4]", json.dumps(output)))
    for words, text in texts:
        (folder / "slices.json").write_text(text)
        done = _run("model", "verify", model, folder)
        assert (done.returncode, words in done.stderr) == (10, True), (words, done.stderr)


def test_slice_by_names(tmp_path: Path) -> None:
    path = tmp_path / "chain.tflite"
    path.write_bytes(chain(4))
    body = json.loads(
        _ok("model", "slice", path, "--cut", "t3", "--cut", "4", "-o", tmp_path / "s", "--format", "json")
    )
    assert [row["operators"] for row in body["slices"]] == [2, 1, 1]
    assert [row["bytes_in"] for row in body["slices"]] == [16, 16, 16]


def test_a_difference_ends_with_exit_code_13(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "chain.tflite"
    path.write_bytes(chain(4))
    folder = tmp_path / "s"
    _ok("model", "slice", path, "--cut", "t3", "-o", folder)
    spoilt = (folder / "slice-01.tflite").read_bytes()
    spoilt = spoilt.replace(np.full(4, 0.5, np.float32).tobytes(), np.full(4, 9, np.float32).tobytes())
    (folder / "slice-01.tflite").write_bytes(spoilt)
    assert _run("model", "verify", path, folder).returncode == 53
    manifest = json.loads((folder / "slices.json").read_text())
    manifest["slices"][1]["sha256"] = hashlib.sha256(spoilt).hexdigest()
    (folder / "slices.json").write_text(json.dumps(manifest))
    done = _run("model", "verify", path, folder, "--seeds", 2)
    assert done.returncode == 13
    assert "slice s1, tensor 5 (t5)" in done.stderr
    assert "2 of 2 frames differ" in done.stdout
    other = _run("model", "verify", model, folder)
    assert (other.returncode, "cut from model" in other.stderr) == (10, True)


def test_bad_input_has_its_own_exit_code(model: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.tflite"
    junk.write_bytes(b"PK\x03\x04" * 100)
    cut_off = tmp_path / "cut-off.tflite"
    cut_off.write_bytes(model.read_bytes()[:200])
    custom = tmp_path / "custom.tflite"
    tiny = Tiny()
    custom.write_bytes(tiny.build([tiny.op("NobodysOperator", [tiny.input((1, 4), name="x")])]))
    np.save(tmp_path / "wrong.npy", np.ones((1, 5), np.float32))
    out = tmp_path / "s"
    _ok("model", "slice", model, "--stages", 2, "-o", out)
    _ok("model", "slice", custom, "--stages", 1, "-o", tmp_path / "c")
    wrong: list[object] = ["model", "verify", model, out, "--input", tmp_path / "wrong.npy"]
    cases: list[tuple[int, str, list[object]]] = [
        (10, "cannot read the model", ["model", "inspect", tmp_path / "no.tflite"]),
        (10, "not a TFLite model", ["model", "inspect", junk]),
        (10, "damaged TFLite flatbuffer", ["model", "inspect", cut_off]),
        (11, "NobodysOperator", ["model", "verify", custom, tmp_path / "c"]),
        (12, "no tensor has this name", ["model", "slice", model, "--cut", "nowhere", "-o", out]),
        (12, f"{model}: 6 stages: expected 1 to 5", ["model", "slice", model, "--stages", 6, "-o", out]),
        (12, f"{model}: cuts at [9]", ["model", "slice", model, "--at", 9, "-o", out]),
        (12, f"{model}: cut 'nowhere'", ["model", "slice", model, "--cut", "nowhere", "-o", out]),
        (2, "--stages N, or --cut TENSOR and --at N", ["model", "slice", model, "-o", out]),
        (2, "--runtime: expected auto", ["model", "inspect", model, "--runtime", "torch"]),
        (60, "expected float32 [1, 4], got float32 [1, 5]", wrong),
        (60, "cannot be read as .npy", ["model", "verify", model, out, "--input", junk]),
        (2, "nothing to compare", ["model", "verify", model, out, "--seeds", 0]),
        (72, "which is no slice", ["model", "slice", model, "--stages", 1, "-o", tmp_path]),
    ]
    for code, words, arguments in cases:
        done = _run(*arguments)
        assert (done.returncode, words in done.stderr) == (code, True), (arguments, done.stderr, done.stdout)


def test_inspect_of_a_model_that_the_runtime_cannot_run(tmp_path: Path) -> None:
    path = tmp_path / "custom.tflite"
    tiny = Tiny()
    path.write_bytes(tiny.build([tiny.op("NobodysOperator", [tiny.input((1, 4), name="x")])]))
    body = json.loads(_ok("model", "inspect", path, "--format", "json"))
    assert "NobodysOperator" in body["note"]
    assert body["operator_counts"] == {"NobodysOperator": 1}


def test_inspect_lists_operators_and_draws_them(model: Path, tmp_path: Path) -> None:
    text = _ok("model", "inspect", model, "--operators", "--cuts", 0)
    rows = [line.split() for line in text.splitlines()]
    listed = [row[2] for row in rows if row and row[0].isdigit() and len(row) > 5]
    assert listed == ["TANH", "RELU", "LOGISTIC", "ADD", "ADD"]
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        picture = tmp_path / f"model{suffix}"
        _ok("model", "inspect", model, "--plot", picture)
        assert picture.read_bytes().startswith(magic)
    for code, words, target in (
        (2, "expected a file that ends in .png", tmp_path / "model.tflite"),
        (72, "cannot be written", tmp_path / "nowhere" / "model.png"),
    ):
        done = _run("model", "inspect", model, "--plot", target)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr


def test_a_picture_that_does_not_fit_leaves_the_earlier_one(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "model.png"
    picture.write_bytes(b"the earlier one")
    _ok("model", "inspect", model, "--plot", tmp_path / "other.png")
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", "model", "inspect", str(model), "--plot", str(picture)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 72, done.stderr
    assert f"{picture}: cannot be written: File too large" in done.stderr
    assert picture.read_bytes() == b"the earlier one"
    assert sorted(tmp_path.iterdir()) == before


def test_slice_by_places_and_by_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "chain.tflite"
    path.write_bytes(chain(4))
    out = ["--format", "json"]
    body = json.loads(_ok("model", "slice", path, "--at", 1, "--cut", "t3", "--at", 3, "-o", tmp_path / "s", *out))
    assert [row["operators"] for row in body["slices"]] == [1, 1, 1, 1]
    (tmp_path / "fleet.toml").write_text(
        '[[node]]\nid = "a"\ncount = 2\nmemory_mb = 100\nspeed = 1\nup_mbps = 100\ndown_mbps = 100\n'
    )
    plan = tmp_path / "plan.json"
    made = ["--fleet", tmp_path / "fleet.toml", "--profile", "estimate", "--shape", "pipeline", "-o", plan]
    _ok("plan", "make", path, *made)
    groups = [item["operators"] for item in json.loads(plan.read_text())["slices"]]
    body = json.loads(_ok("model", "slice", path, "--plan", plan, "-o", tmp_path / "s", *out))
    assert [row["operators"] for row in body["slices"]] == [len(group) for group in groups]
    edited = json.loads(plan.read_text())
    first = edited["slices"][0]
    edited["slices"] = [
        {**first, "operators": [0, 1]},
        {**first, "id": "s1", "nodes": ["a-2"], "operators": [2, 3]},
    ]
    edited.pop("bundles")
    plan.write_text(json.dumps(edited))
    body = json.loads(_ok("model", "slice", path, "--plan", plan, "-o", tmp_path / "s", *out))
    assert [row["operators"] for row in body["slices"]] == [2, 2]
    for code, words, arguments in (
        (12, "expected rising positions between 1 and 3", ["--at", 9]),
        (2, "--plan FILE", ["--at", 1, "--stages", 2]),
        (2, "--plan FILE", ["--plan", plan, "--cut", "4"]),
        (20, "no-plan.json: cannot be read", ["--plan", tmp_path / "no-plan.json"]),
        (20, "fleet.toml: plan: not JSON", ["--plan", tmp_path / "fleet.toml"]),
    ):
        done = _run("model", "slice", path, *arguments, "-o", tmp_path / "s")
        assert (done.returncode, words in done.stderr) == (code, True), (arguments, done.stderr)


def test_inspect_tells_of_state_subgraphs_and_signatures(tmp_path: Path) -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    index, start = tiny.subgraph("start")
    start.assign(start.handle("sum"), start.constant(np.zeros((1, 4), np.float32)))
    tiny.call_once(index)
    handle = tiny.handle("sum")
    total = tiny.op("ADD", [x, tiny.read(handle)])
    tiny.assign(handle, total)
    last = tiny.op("TANH", [tiny.op("RELU", [total])])
    tiny.sign("serving_default", {"audio": x}, {"score": last})
    path = tmp_path / "stateful.tflite"
    path.write_bytes(tiny.build([last]))
    text = _ok("model", "inspect", path)
    assert "kept from frame to frame, in variables: 1" in text
    assert "signature  serving_default: audio -> score" in text
    body = json.loads(_ok("model", "inspect", path, "--format", "json"))
    assert [row["name"] for row in body["variables"]] == ["variable 'sum'"]
    assert body["subgraphs"] == 1
    assert body["signatures"] == [{"key": "serving_default", "inputs": {"audio": x}, "outputs": {"score": last}}]
    assert all(cut["position"] >= 3 for cut in body["cuts"])


def test_sizes_of_inputs_that_a_model_leaves_open(tmp_path: Path) -> None:
    tiny = Tiny()
    tiny.inputs.append(tiny.tensor((1, 4), name="audio", signature=(1, -1)))
    path = tmp_path / "open.tflite"
    path.write_bytes(tiny.build([tiny.op("TANH", [tiny.op("RELU", [0])])]))
    body = json.loads(_ok("model", "inspect", path, "--input-shape", "audio=1x9", "--format", "json"))
    assert (body["inputs"][0]["shape"], body["cuts"][0]["bytes"]) == ([1, 9], 36)
    body = json.loads(
        _ok("model", "slice", path, "--at", 1, "--input-shape", "0=1x9", "-o", tmp_path / "s", "--format", "json")
    )
    assert [row["bytes_in"] for row in body["slices"]] == [36, 36]
    np.save(tmp_path / "frame.npy", np.ones((1, 9), np.float32))
    _ok("model", "verify", path, tmp_path / "s", "--input", tmp_path / "frame.npy", "--seeds", 0)
    for code, words, given in (
        (2, "expected NAME=SIZExSIZE", ["audio"]),
        (2, "expected NAME=SIZExSIZE", ["audio=1x-1"]),
        (2, "given twice", ["audio=1x9", "audio=1x8"]),
        (10, "input 0 (audio): a size is given twice", ["audio=1x9", "0=1x9"]),
        (10, "expected one of audio (0)", ["video=1x9"]),
        (10, "expected float32 [1, ?]", ["audio=2x9"]),
    ):
        arguments = [word for text in given for word in ("--input-shape", text)]
        done = _run("model", "inspect", path, *arguments)
        assert (done.returncode, words in done.stderr) == (code, True), (given, done.stderr)
