"""Pages of a mapped model file are given back, and only those."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.models import real_models
from edge_node.residency import drop_file_pages
from tests.runtimes import EACH_RUNTIME

SIZE = 1 << 21
_CHILD = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from edge_node.runtime import open_interpreter
from tests.edge_node.test_residency import resident
path = Path(sys.argv[1])
interpreter = open_interpreter(path, runtime=sys.argv[2])
loaded = resident(path)
def run():
    rng = np.random.default_rng(1)
    for position, info in enumerate(interpreter.inputs):
        interpreter.set_input(position, rng.standard_normal(info.shape).astype(info.dtype))
    interpreter.invoke()
    return [hashlib.sha256(interpreter.output(k).tobytes()).hexdigest() for k in range(len(interpreter.outputs))]
before = run()
interpreter.warm_up()
print(json.dumps([loaded, resident(path), before == run(), resident(path)]))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model file.tflite"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def resident(path: Path) -> int:
    """Bytes of the mappings of `path` that are in this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if line[0] in "0123456789abcdef":
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def test_read_only_pages_go_and_come_back_with_the_same_bytes(file: Path) -> None:
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:] == file.read_bytes()
        assert resident(file) == SIZE
        assert drop_file_pages(file) == SIZE
        assert resident(file) == 0
        assert mapped[:] == file.read_bytes()


def test_what_was_written_into_a_private_mapping_stays(file: Path) -> None:
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[5] = 99
        assert drop_file_pages(file) == 0
        assert mapped[5] == 99


def test_another_file_of_the_same_name_is_left_alone(file: Path) -> None:
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:4] == bytes(range(4))
        file.rename(file.with_suffix(".old"))
        file.write_bytes(b"new")
        assert drop_file_pages(file) == 0


def test_nothing_mapped_no_file_or_no_proc(file: Path, tmp_path: Path) -> None:
    assert drop_file_pages(file) == 0
    assert drop_file_pages(tmp_path / "absent") == 0
    assert drop_file_pages(file, maps=tmp_path / "no-proc") == 0
    (tmp_path / "odd").write_bytes(b"\n\xff zz\n1-2 r--s\n")
    assert drop_file_pages(file, maps=tmp_path / "odd") == 0


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_a_warm_model_keeps_its_packed_weights_only(runtime: str) -> None:
    model = real_models()["iris-landmark"].path.resolve()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(model), runtime], capture_output=True, text=True, check=True
    )
    loaded, warm, equal, running = json.loads(done.stdout)
    assert loaded > 1_000_000
    assert warm < 100_000
    assert equal
    # A read brings its neighbours back too, so a small file may be whole again; it is never more.
    assert running <= loaded + 4096
