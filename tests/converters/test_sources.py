"""Converting without a converter: arguments, kinds of files, targets, copies, and children that fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.child import Child
from converters.children.conversation import GREETING
from converters.graph import read_graph
from converters.schema import open_model
from converters.source_kinds import source_kind
from converters.sources import ERRORS, convert
from slicemq.errors import (
    InputError,
    MissingDependencyError,
    ModelError,
    SliceMQError,
    StoreError,
    UnsupportedOperatorError,
    UsageError,
)
from tests.converters.tiny import diamond
from tests.waiting import eventually


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "diamond.tflite"
    path.write_bytes(diamond())
    return path


@pytest.fixture
def keras(tmp_path: Path) -> Path:
    """By its name and first bytes a Keras model."""
    path = tmp_path / "model.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n and so on")
    return path


def _interpreter(folder: Path, script: str) -> str:
    """An executable that a user might name with --python."""
    path = folder / "python"
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


def _package(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    """Let children find a package of this name before any that is installed."""
    root = folder / "packages"
    (root / name).mkdir(parents=True)
    (root / name / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(root))


def _answering(folder: Path, *answers: dict[str, Any]) -> str:
    """An interpreter that greets, and answers each line with the next of `answers`, whatever it is asked."""
    code = (
        f"#!{sys.executable}\nimport sys\nprint({json.dumps(GREETING)!r}, flush=True)\n"
        + "".join(f"sys.stdin.readline(); print({json.dumps(a)!r}, flush=True)\n" for a in answers)
        + "sys.stdin.read()\n"
    )
    return _interpreter(folder, code)


# ---- arguments ----


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"quantize": "int4"}, "--quantize: expected none, float16, dynamic, int8, got 'int4'"),
        ({"io": "int16"}, "--io: expected int8, uint8, float32"),
        ({"samples": 0}, "--samples: expected at least 1"),
        ({"normalize": "0..2"}, "--normalize: expected -1..1"),
        ({"quantize": "int8"}, "needs --calibration FOLDER"),
        ({"quantize": "float16", "calibration": Path(".")}, "--calibration is for --quantize int8"),
        ({"quantize": "int8", "calibration": Path("/nowhere")}, "no such folder"),
        ({"signature": "serve"}, "--signature is for a SavedModel"),
        ({"python": "/nowhere/python"}, "--python /nowhere/python: cannot be run"),
    ],
)
def test_arguments_that_do_not_fit(keras: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(keras, keras.parent / "out.tflite", **options)
    assert expected in str(caught.value)
    assert not (keras.parent / "out.tflite").exists()


@pytest.mark.parametrize("options", [{"quantize": "float16"}, {"shapes": {"x": (1, 4)}}, {"signature": "x"}])
def test_a_finished_model_is_only_copied(model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        convert(model, model.parent / "out.tflite", **options)


# ---- kinds ----


def test_kinds(tmp_path: Path, model: Path, keras: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("archive/version", "0")
    (tmp_path / "a.onnx").write_bytes(b"\x08\x08\x12\x00")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    kinds = {p.name: source_kind(p) for p in tmp_path.iterdir()}
    assert kinds == {
        "diamond.tflite": "tflite",
        "model.h5": "keras",
        "a.keras": "keras",
        "a.pt2": "pytorch",
        "a.onnx": "onnx",
        "saved": "saved-model",
    }


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.keras", b"\x89HDF\r\n\x1a\n", r"expected a Keras archive \(.keras\), found an HDF5 file \(.h5\)"),
        ("a.keras", b"", "found an empty file"),
        ("a.keras", b"PK\x03\x04 cut short", "found a zip archive"),
        ("a.h5", b"PK\x03\x04 cut short", "expected an HDF5 file"),
        ("a.h5", b"hello world", "found something else"),
        ("a.tflite", b"hello world", "expected a TFLite flatbuffer"),
        ("a.onnx", b"\x1c\x00\x00\x00TFL3....", "expected an ONNX model, found a TFLite flatbuffer"),
        ("a.pt", b"PK\x03\x04", "export it to .pt2"),
        ("a.pth", b"PK\x03\x04", "docs/how-to/convert-models.md"),
        ("a.pb", b"\x08\x01", "give the SavedModel's folder"),
        ("a.bin", b"1234", "expected .keras, .h5, .hdf5, .onnx, .pt2, .tflite, .lite or a SavedModel folder"),
        ("model", b"1234", "got 'no suffix'"),
    ],
)
def test_files_that_are_not_what_they_seem(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=expected) as caught:
        convert(path, tmp_path / "out.tflite")
    assert str(caught.value).startswith(str(path))
    assert not (tmp_path / "out.tflite").exists()


def test_missing_files_and_other_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        source_kind(tmp_path / "a.keras")
    with pytest.raises(ModelError, match=r"without saved_model\.pb"):
        source_kind(tmp_path)


# ---- copies and targets ----


def test_a_tflite_is_checked_and_copied(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "copy.tflite"
    made = convert(model, out)
    assert out.read_bytes() == model.read_bytes()
    assert (made.path, made.kind, made.size, made.note) == (out, "tflite", model.stat().st_size, "")
    assert made.graph == read_graph(model.read_bytes())
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~umask
    assert [p.name for p in out.parent.iterdir()] == ["copy.tflite"]


def test_a_damaged_tflite_is_not_copied(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tflite"
    out.write_bytes(b"the old one")
    data = model.read_bytes()
    for damaged in (data[: len(data) // 2], data[:16]):
        model.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            convert(model, out)
        assert out.read_bytes() == b"the old one"


def test_an_older_file_is_replaced_behind_its_link(model: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "old.tflite", tmp_path / "link.tflite"
    real.write_bytes(b"old")
    link.symlink_to(real)
    convert(model, link)
    assert link.is_symlink()
    assert real.read_bytes() == model.read_bytes()


def test_what_is_never_replaced(model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "saved_model.pb").write_bytes(b"")
    (tmp_path / "hard.tflite").hardlink_to(model)
    (tmp_path / "soft.tflite").symlink_to(model)
    (tmp_path / "folder.tflite").mkdir()
    os.mkfifo(tmp_path / "pipe.tflite")
    before = model.read_bytes()
    for source, out in [
        (model, model),
        (model, tmp_path / "hard.tflite"),
        (model, tmp_path / "soft.tflite"),
        (model, tmp_path / "folder.tflite"),
        (model, tmp_path / "pipe.tflite"),
        (model, tmp_path / "out.keras"),
        (saved, saved / "out.tflite"),
    ]:
        with pytest.raises(UsageError) as caught:
            convert(source, out)
        assert str(caught.value).startswith(f"{out}: ")
    assert model.read_bytes() == before
    assert [p.name for p in saved.iterdir()] == ["saved_model.pb"]


def test_a_target_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        convert(model, tmp_path / "file" / "out.tflite")


# ---- children ----


def test_tensorflow_that_is_not_there(keras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "raise ModuleNotFoundError(\"No module named 'tensorflow'\", name='tensorflow')"
    _package(tmp_path, monkeypatch, "tensorflow", code)
    with pytest.raises(MissingDependencyError) as caught:
        convert(keras, tmp_path / "out.tflite")
    assert f"needs TensorFlow, and in {sys.executable} tensorflow is not installed" in str(caught.value)
    assert "pip install 'slicemq[keras]'" in str(caught.value)


def test_tensorflow_that_does_not_work(keras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, monkeypatch, "tensorflow", "raise ImportError('numpy.core is of another version')")
    with pytest.raises(MissingDependencyError, match=r"cannot be imported: numpy\.core is of another version"):
        convert(keras, tmp_path / "out.tflite")


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGKILL, "signal 9 .*memory ran out"), (signal.SIGSEGV, "signal 11 .*a crash inside its libraries")],
)
def test_a_child_that_dies_of_a_signal(keras: Path, tmp_path: Path, number: int, expected: str) -> None:
    greeting = f"echo '{json.dumps(GREETING)}'\n"
    python = _interpreter(tmp_path, f"#!/bin/sh\n{greeting}echo about to allocate >&2\nkill -{number} $$\n")
    with pytest.raises(ModelError, match=expected) as caught:
        convert(keras, tmp_path / "out.tflite", python=python)
    assert "about to allocate" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.h5", "python"]


def test_a_child_that_ends_without_an_answer(keras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, monkeypatch, "tensorflow", "import sys; print('noise'); sys.exit(3)")
    with pytest.raises(ModelError, match=r"exit code 3; its last lines:\n  noise"):
        convert(keras, tmp_path / "out.tflite")


@pytest.mark.parametrize("line", ["hello", "[1, 2]"])
def test_a_program_that_is_no_python(keras: Path, tmp_path: Path, line: str) -> None:
    python = _interpreter(tmp_path, f"#!/bin/sh\necho '{line}'\ncat\n")
    with pytest.raises(UsageError, match="no Python interpreter, it answered"):
        convert(keras, tmp_path / "out.tflite", python=python)


@pytest.mark.parametrize("program", ["true", "cat", "false"])
def test_a_program_that_does_not_greet(keras: Path, tmp_path: Path, program: str) -> None:
    python = shutil.which(program)
    assert python is not None
    with pytest.raises(UsageError, match=rf"^--python {python}: no Python interpreter.*, it ended by exit code"):
        convert(keras, tmp_path / "out.tflite", python=python)


@pytest.mark.parametrize("where", ["export", "print"])
def test_a_full_disk_is_not_the_models_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    source = tmp_path / "model.pt2"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("a", "b")
    program = "type('Program', (), {'example_inputs': ((), {}), 'module': lambda self: None})()"
    loading = f"class export:\n    load = staticmethod(lambda path: {program})\n"
    _package(tmp_path, monkeypatch, "torch", loading)
    code = "def full():\n    with open('/dev/full', 'w') as file:\n        file.write('x')\n"
    if where == "export":
        code += "class Made:\n    def export(self, path): full()\ndef convert(*a): return Made()\n"
    else:
        code += (
            "import os\ndef convert(*a):\n    os.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n"
            "    try:\n        full()\n"
            "    except OSError as error:\n        raise RuntimeError('hidden') from error\n"
        )
    _package(tmp_path, monkeypatch, "litert_torch", code)
    with pytest.raises(StoreError, match=r"^/.*: cannot be written: No space left on device$"):
        convert(source, tmp_path / "out.tflite")
    assert not (tmp_path / "out.tflite").exists()


@pytest.mark.parametrize("word", sorted(ERRORS))
def test_what_the_child_refuses(keras: Path, tmp_path: Path, word: str) -> None:
    out = tmp_path / "out.tflite"
    out.write_bytes(b"the old one")
    python = _answering(tmp_path, {"error": word, "text": "because of this"})
    with pytest.raises(ERRORS[word], match="because of this"):
        convert(keras, out, python=python)
    assert out.read_bytes() == b"the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.h5", "out.tflite", "python"]


def test_operators_have_their_own_exit_code() -> None:
    assert ERRORS["operators"] is UnsupportedOperatorError


def test_calibration_is_checked_against_what_the_child_says(keras: Path, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((1, 5), np.float32))
    inputs = [{"name": "x", "dtype": "float32", "shape": [1, 4]}]
    python = _answering(tmp_path, {"inputs": inputs, "signature": ""})
    with pytest.raises(InputError, match=r"a\.npy: input 'x': expected float32 \[1, 4\]"):
        convert(keras, tmp_path / "out.tflite", quantize="int8", calibration=folder, python=python)
    assert not (tmp_path / "out.tflite").exists()


def test_an_empty_calibration_set(keras: Path, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((0, 4), np.float32))
    inputs = [{"name": "x", "dtype": "float32", "shape": [1, 4]}]
    python = _answering(tmp_path, {"inputs": inputs, "signature": ""})
    with pytest.raises(InputError, match="hold no samples"):
        convert(keras, tmp_path / "out.tflite", quantize="int8", calibration=folder, python=python)


def test_a_result_that_cannot_be_cut_is_kept(keras: Path, tmp_path: Path) -> None:
    script = (
        f"#!{sys.executable}\nimport json, sys\nprint({json.dumps(GREETING)!r}, flush=True)\n"
        "task = json.loads(sys.stdin.readline())\n"
        "open(task['target'], 'wb').write(b'    TFL3 nothing that we know')\n"
        "print(json.dumps({'inputs': [], 'signature': ''}))\nprint(json.dumps({'done': 'someone'}), flush=True)\n"
    )
    made = convert(keras, tmp_path / "out.tflite", python=_interpreter(tmp_path, script))
    assert made.graph is None
    assert made.note
    assert (tmp_path / "out.tflite").read_bytes() == b"    TFL3 nothing that we know"
    assert made.converter == "someone"


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_leaving_ends_the_child(tmp_path: Path) -> None:
    python = _interpreter(tmp_path, f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    child = Child(python, "none", ERRORS, "sleeping")
    pid = tmp_path / "pid"
    eventually(lambda: pid.is_file() and pid.read_text().strip())
    with pytest.raises(KeyboardInterrupt), child:
        raise KeyboardInterrupt
    assert not _alive(int(pid.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_conversion(keras: Path, tmp_path: Path, number: signal.Signals) -> None:
    pid = tmp_path / "pid"
    # It greets and takes the task before it tells its number, so the command waits for its answer then.
    greets = f"echo '{json.dumps(GREETING)}'\nread task\necho $$ > {pid}\nexec sleep 1000\n"
    python = _interpreter(tmp_path, f"#!/bin/sh\n{greets}")
    command = [sys.executable, "-m", "coordinator.cli", "model", "convert", keras, tmp_path / "out.tflite"]
    process = subprocess.Popen(
        [*map(str, command), "--python", python], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    eventually(lambda: pid.is_file() and pid.read_text().strip())
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + number, "")
    eventually(lambda: not _alive(int(pid.read_text())))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.h5", "pid", "python"]


def test_a_child_whose_parent_is_gone_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, monkeypatch, "torch", "print('imported')\nimport time\ntime.sleep(1000)")
    child = Child(sys.executable, "converters.children.torch_convert", ERRORS, "converting")
    process = child._process
    assert process.stdin is not None
    process.stdin.write(b"{}\n")
    process.stdin.close()
    with child:
        assert process.wait(30) == 1


def test_children_import_nothing_else_of_ours(tmp_path: Path) -> None:
    """In an interpreter that has no SliceMQ: `-I` hides this folder and what the environment adds."""
    python = _interpreter(tmp_path, f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -I -S "$@"\n')
    for module in ("tensorflow_convert", "torch_convert"):
        with (
            Child(python, f"converters.children.{module}", ERRORS, "x") as child,
            pytest.raises(MissingDependencyError, match="is not installed"),
        ):
            child.ask({"kind": "keras"})


@pytest.mark.parametrize("name", ["a.keras", "a.tflite"])
def test_a_pipe_is_no_model(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ModelError, match=f"{name}: no plain file"):
        convert(tmp_path / name, tmp_path / "out.tflite")
    with pytest.raises(ModelError, match=f"{name}: cannot read the model: no plain file"):
        open_model(tmp_path / name)


# ---- the verb ----


def _verb(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coordinator.cli", "model", "convert", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_verb_copies(model: Path, tmp_path: Path) -> None:
    done = _verb(model, tmp_path / "a.tflite")
    assert (done.returncode, done.stderr) == (0, "")
    assert "checked and copied" in done.stdout
    assert "4 places to cut" in done.stdout
    body = json.loads(_verb(model, tmp_path / "b.tflite", "--format", "json").stdout)
    assert (body["kind"], body["cuts"], body["quantize"]) == ("tflite", 4, "none")
    assert body["inputs"] == [{"index": 0, "name": "x", "dtype": "float32", "shape": [1, 4]}]
    assert body["size"] == model.stat().st_size


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--shape", "x"], UsageError),
        (["--shape", "x=0x3"], UsageError),
        (["--shape", "=1x3"], UsageError),
        (["--quantize", "int8"], UsageError),
        (["--quantize", "int9"], UsageError),
    ],
)
def test_the_verb_refuses(keras: Path, tmp_path: Path, words: list[str], error: type[SliceMQError]) -> None:
    done = _verb(keras, tmp_path / "a.tflite", *words)
    assert done.returncode == error.exit_code
    assert done.stderr.startswith("slicemq: ")
    assert len(done.stderr.splitlines()) == 1
