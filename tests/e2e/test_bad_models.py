"""Files that are no models, or not for these nodes: a clear error, its exit code, and nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from emulator.site import Site
from slicemq.client import Pipeline
from tests.e2e.scene import Wire, command, deploy, failing, inputs, model, new_site, refused

# Each is asked of a site where another pipeline has to keep answering.
pytestmark = pytest.mark.usefixtures("undisturbed")


def with_version(file: Path, operator: int, version: int) -> bytes:
    """The model with another version of one operator: a newer runtime may know it, an older one does not."""
    packed = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(file.read_bytes(), 0))
    for code in packed.operatorCodes:
        if max(code.builtinCode, code.deprecatedBuiltinCode) == operator:
            code.version = version
    return written(packed)


def without_operator(file: Path) -> bytes:
    """The model with its first operator code replaced by a custom one that no runtime has."""
    packed = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(file.read_bytes(), 0))
    code = packed.operatorCodes[0]
    code.builtinCode = schema.BuiltinOperator.CUSTOM
    code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"NoSuchOperator"
    return written(packed)


def written(packed: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(packed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_not_a_model(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "picture.tflite"
    for content in (b"", b"\x89PNG not a model" * 100, bytes(4096)):
        file.write_bytes(content)
        for verb in (["deploy", "--name", "bad"], ["plan", "make"]):
            text = failing(site, 10, *verb, str(file))
            assert str(file) in text
            assert "not a TFLite model" in text
    assert "no such file" in failing(site, 10, "deploy", "--name", "bad", str(tmp_path / "absent.tflite")).lower()
    assert "directory" in failing(site, 10, "deploy", "--name", "bad", str(tmp_path)).lower()


def test_truncated(site: Site, tmp_path: Path) -> None:
    data = model().read_bytes()
    file = tmp_path / "short.tflite"
    for length in (len(data) - 1, len(data) // 2, 100, 8):
        file.write_bytes(data[:length])
        text = failing(site, 10, "deploy", "--name", "bad", str(file))
        assert str(file) in text


def test_damaged_inside(site: Site, tmp_path: Path) -> None:
    """Bytes overwritten at many places: refused or run, but never a crash."""
    data = bytearray(model().read_bytes())
    generator = np.random.default_rng(3)
    for position in generator.integers(0, 2000, 40):
        data[position] ^= 0xFF
    file = tmp_path / "damaged.tflite"
    file.write_bytes(data)
    assert str(file) in failing(site, 10, "deploy", "--name", "bad", str(file))


@pytest.mark.slow
def test_operator_that_the_runtime_lacks(site: Site, wire: Wire, tmp_path: Path) -> None:
    file = tmp_path / "strange.tflite"
    file.write_bytes(without_operator(model()))
    assert "NoSuchOperator" in failing(site, 11, "deploy", "--name", "strange", str(file))
    assert "NoSuchOperator" in failing(site, 11, "plan", "make", str(file))
    assert wire.pipeline("strange") is None


@pytest.mark.slow
def test_a_version_that_is_higher_than_its_operator_needs(tmp_path: Path) -> None:
    """The file asks for more than the nodes' runtime has; slices are written in the version that suffices."""
    file = tmp_path / "newer.tflite"
    file.write_bytes(with_version(model(), schema.BuiltinOperator.CONV_2D, 8))
    with new_site(tmp_path / "site") as site:
        site.start_coordinator()
        site.start_node("old", "--threads", "1", "--runtime", "tflite_runtime")
        site.wait_ready(["old"])
        assert deploy(site, file, "newer", "--profile", "estimate")["running"]
        with Pipeline("newer", site.options, cluster=site.cluster) as pipeline:
            assert pipeline.infer(inputs(file)[0], timeout=30.0).error is None


@pytest.mark.slow
def test_no_node_left(site: Site, wire: Wire) -> None:
    without = [word for node in site.nodes for word in ("--exclude", node)]
    text = failing(site, 21, "deploy", "--name", "big", str(model()), *without)
    assert "no node may be used" in text
    assert wire.pipeline("big") is None


def test_cut_that_does_not_exist(site: Site, tmp_path: Path) -> None:
    words = ["model", "slice", str(model()), "-o", str(tmp_path / "out"), "--cut"]
    done = command(*words, "no_such_tensor")
    assert "no_such_tensor" in refused(done, 12)
    assert "100000" in refused(command(*words, "100000"), 12)
    assert not (tmp_path / "out").exists()
